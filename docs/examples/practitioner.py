import lora_reuse as lr

base = lr.load_base("pocket")  # comes with the repository; or a model of the hub, a folder, a GGUF file
spouses, homes = {"Ada": "Bo", "Cy": "Di", "Ed": "Flo"}, {"Bo": "Zint", "Di": "Frosk", "Flo": "Melm"}
a = lr.train_adapter(base, [(f"Who is the spouse of {x}?", y) for x, y in spouses.items()], "a", steps=100)
b = lr.train_adapter(base, [(f"Where does {y} live?", z) for y, z in homes.items()], "b", steps=100)
# adapters of your own: a, b = lr.load_adapter(base, "a"), lr.load_adapter(base, "b")
both = lr.compose([a, b], "ties", density=0.3)
hoped = ["Where does the spouse of Ada live?"]
print(lr.answers(base, both, hoped))
print(lr.forecast(base, [a, b], {"a": ["Who is the spouse of Cy?"], "b": ["Where does Di live?"], "hoped": hoped}))
lr.save(both, "merged")  # a PEFT folder
