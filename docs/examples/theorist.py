"""python theorist.py"""

import lora_reuse as lr

for width in (2**8, 2**12, 2**16):
    c1, c2 = lr.coefficients(lr.Model(width=width), "sum", seeds=range(16))
    print(f"width {width}: c₁ = {c1}")
    print(f"width {width}: c₂ = {c2}")

k, stderr = lr.kernel(["x r1", "y r2", "x r1 r2"], lr.Model(width=float("inf")))
print(f"at infinite width: c₁ = {k[0, 2] / k[0, 0]:.4f}, c₂ = {k[1, 2] / k[1, 1]:.4f}")
