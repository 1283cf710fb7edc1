"""Step by step instead of directly: when does a restated one-hop question look enough like a one-hop prompt (beyond the
paper; Table 1)?

Two experts of n facts each (eq. 23): r̃₁(x_i) = y_i under η₁ = `x_i r1`, r̃₂(y_i) = z_i under η₂ = `y_i r2`. A prompt
is a list of segments. At its last token a share λ (`locality`) of the attention goes uniformly to the earlier tokens of
the last segment and 1 − λ uniformly to all tokens of the segments before it; with no segment before, all stays in the
one there is, so `x r1` and `x r1 r2` are those of `theory.model` at every λ. Small λ is the paper's uniform attention
over a long prompt. The transcript of fact i is

    [filler] [x r1 r2] [x r1] → a₁        [filler] [x r1 r2] [x r1 a₁] [a₁ r2] → a₂

Prompts have to be fixed in advance, so the second step is asked with a₁ = y_i (the edited answer) and with a₁ = r₁(x_i)
(the old one); any other first answer counts as a failure of the chain. As everywhere, the base model answers each
prompt as before the edits.

Measured, with the same quantities of the kernel as prediction (at width=inf and a finite dim: those at dim=inf):
- `hop_1`: the share of facts whose first step has y_i as its largest output (ties shared), `hop_2`: whose second step
  has z_i, y_i given;
- `two_hop_step_by_step`: Σ_i P(a₁ = y_i) P(a₂ = z_i | y_i) + P(a₁ = r₁(x_i)) P(a₂ = z_i | r₁(x_i)), over n;
- `two_hop_direct`: the share whose `x r1 r2` has z_i as its largest output;
- `c_hop_1`, `c_hop_2`: the coefficient of fact i's own answer difference on its own step, averaged over i
  (`theory.restated` has it in closed form). Error bars (the delta method) are for these two at n = 1 without bridge
  data, where six prompts are in use, and for an S of full rank: not at λ = 1, where the restated prompts are the stored
  keys, nor under mask=causal at dim=inf.

With several blocks (`theory.depth`) every position attends like that in every block, also those before the last. The
first token of a segment has no earlier one in it: under mask=strict it gives all its attention to the segments before.

Other rules than `sum`:
- `average` halves c, which is 1 at λ = 1 only: there old and new answer tie (hop_1 = hop_2 = 1/2, the chain 1/4), and
  below it nothing flips.
- `arrow` takes each expert's top singular direction for its prototype. From n = 3 facts on, at d = m = ∞, the n − 1
  largest singular values of ΔW coincide, so the prototype is any direction free of the keys' mean: routing depends on
  rounding there, elsewhere on the draw. With `scores=kernel` both experts get a good part of the weight; `scores=raw`,
  as software has it, picks one, and picks wrongly for some.

Bridge data (`setup`, the rows of Table 1): what the experts store besides their facts, in the same eq. 23, about n
other pairs of facts that share no entity with the asked ones. F1: `x r1`, F2: `y r2`, F12: `x r1 r2` with z, F12CoT:
the two steps of the transcript, y given. 2: F1 + F2 + F12CoT in both; 3: F1 + F2 + F12 in both; 4, 5: as 2 in the
first, the second expert only; 6: F12CoT in both; 7: F1 + F12CoT in the first, F2 + F12CoT in the second; 8: F1 + F4 +
F14CoT in the first, F5 + F2 + F52CoT in the second, r4 and r5 being the world's third and fourth relations, each
expert's chains about entities of its own. Real and fake names, which Table 1 also varies, are alike here. Prompts that
coincide (at λ = 1 a restated question is the one-hop prompt) are stored once.

What one layer cannot explain: the effect of bridge *training* beyond extra stored keys. Keys alone do harm: under `sum`
no setup raises a hop, the c of an expert that stores more falls at every λ < 1, and at n = 1 answers of the bridge,
which both experts add, win. The attention is given and not learned, so λ is that of no bridge. Nor the copying of names
(a₁ is put into step 2) or the writing of the template."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from lora_reuse.runs.settings import SettingError
from lora_reuse.theory import gram as grams
from lora_reuse.theory.compositions import RULES, Context, Features, Outputs, compose, dials_of
from lora_reuse.theory.depth import Segments, tangent_kernel
from lora_reuse.theory.edits import LowRank, min_norm_edit
from lora_reuse.theory.error_bars import dependent, expansion, sure_signs
from lora_reuse.theory.experiments import Result, Values
from lora_reuse.theory.facts import ROLES
from lora_reuse.theory.kernels import kernel
from lora_reuse.theory.library import Scene, draw_scene, wins
from lora_reuse.theory.limit import limit_geometry
from lora_reuse.theory.readout import one_hot
from lora_reuse.theory.settings import INF, Bridge
from lora_reuse.theory.streaming import stream, streamed

COT = ("step_1", "step_2")
FULL = ("F1", "F2", *COT)
DIRECT = ("F1", "F2", "F12")
# What each expert stores about the bridge's facts.
ONES, TWOS = ("F1", *COT), ("F2", *COT)
SETUPS = {
    0: ((), ()),
    2: (FULL, FULL),
    3: (DIRECT, DIRECT),
    4: (FULL, ()),
    5: ((), FULL),
    6: (COT, COT),
    7: (ONES, TWOS),
    8: (FULL, FULL),
}
MOST_PROMPTS_WITH_ERRORS = 6


class Question(NamedTuple):
    """A prompt, what the base model answers, and the answer that an edit puts there or that is wished for."""

    prompt: Segments
    old: int
    new: int


def questions(scene: Scene, part: slice, relations: tuple[int, int], filler: Segments) -> dict[str, list[Question]]:
    """All that is asked about some of a scene's facts x → y → z over two relations: F1, F2, F12, and the steps of the
    transcript, the second with y fed and, as `kept`, with the old answer r₁(x) fed."""
    world, (a, b) = scene.world, relations
    asked: dict[str, list[Question]] = {name: [] for name in (*DIRECT, *COT, "kept")}
    for x, y, z, r1x, r2y, r2r1x in zip(*(getattr(scene.edits, role)[part].tolist() for role in ROLES), strict=True):
        restated, direct = world.one_hop(x, a), world.two_hop(x, a, b)
        before = (*filler, direct)
        asked["F1"].append(Question((restated,), r1x, y))
        asked["F2"].append(Question((world.one_hop(y, b),), r2y, z))
        asked["F12"].append(Question((direct,), r2r1x, z))
        asked["step_1"].append(Question((*before, restated), r1x, y))
        asked["step_2"].append(Question((*before, (*restated, y), world.one_hop(y, b)), r2y, z))
        asked["kept"].append(Question((*before, (*restated, r1x), world.one_hop(r1x, b)), r2r1x, z))
    return asked


@dataclass(frozen=True)
class Plan:
    """What a setting stores and asks."""

    setting: Bridge
    entities: int
    asked: dict[str, list[Question]]
    stored: tuple[list[Question], list[Question]]

    @cached_property
    def prompts(self) -> list[Segments]:
        return list(dict.fromkeys(q.prompt for part in (*self.stored, *self.asked.values()) for q in part))

    @cached_property
    def tokens(self) -> tuple[Float64[np.ndarray, "prompts tokens"], Float64[np.ndarray, "prompts tokens"]]:
        """The coefficients (attended, residual) over the tokens in use."""
        used = sorted({token for prompt in self.prompts for segment in prompt for token in segment})
        index = {token: i for i, token in enumerate(used)}
        compact = [tuple(tuple(index[token] for token in segment) for segment in prompt) for prompt in self.prompts]
        return coefficients(compact, len(used), self.setting.locality, self.setting.mask)

    def columns(self, questions: Sequence[Question]) -> list[int]:
        """Where the questions' prompts are."""
        where = {prompt: i for i, prompt in enumerate(self.prompts)}
        return [where[q.prompt] for q in questions]

    def distinct(self, questions: Sequence[Question]) -> list[Question]:
        """Each prompt that the model can tell from the others once: at λ = 1 a restated question is the one-hop prompt,
        of several blocks under mask=causal alone."""
        keys = [row.tobytes() for row in np.hstack(self.tokens)[self.columns(questions)]]
        if self.setting.beyond_one_block():
            alike = self.setting.locality == 1 and self.setting.mask == "causal"
            keys = [question.prompt[-1:] if alike else question.prompt for question in questions]
        return list(dict(zip(reversed(keys), reversed(questions), strict=True)).values())[::-1]

    def one_hot(self, answers: Sequence[int]) -> Outputs:
        return one_hot(np.array(answers, dtype=int), self.entities)

    def differences(self, questions: Sequence[Question]) -> Outputs:
        """i_new − i_old."""
        return self.one_hot([q.new for q in questions]) - self.one_hot([q.old for q in questions])

    def experts(self, phi: Features) -> list[LowRank]:
        """Both adapters, eq. 23 over all that each stores."""
        chosen = [self.distinct(questions) for questions in self.stored]
        try:
            if max(map(len, chosen)) > self.setting.width:  # float32 sums would hide it
                raise ValueError
            library = [min_norm_edit(phi[:, self.columns(stored)], self.differences(stored)) for stored in chosen]
        except ValueError:
            names = ("width", "dim", "locality", "facts", "activation", "input_variance", "init_scale")
            got = f"{self.setting.setup} with {', '.join(f'{name}={getattr(self.setting, name)}' for name in names)}"
            raise SettingError(
                "setup", got, "prompts to store whose features are linearly independent", "raise width= or dim="
            ) from None
        if self.setting.composition != "arrow_after":
            return library
        most = max(expert.rank for expert in library)  # merged after the product, where empty columns change nothing
        return [LowRank(*(np.pad(factor, ((0, 0), (0, most - e.rank))) for factor in (e.out, e.into))) for e in library]


def planned(setting: Bridge) -> Plan:
    """The prompts of a setting: its n facts, and for the bridge n others, or 2n where each expert has chains of its
    own."""
    n = setting.facts
    scene = draw_scene(n * {0: 1, 8: 3}.get(setting.setup, 2))
    filler = (
        (tuple(scene.world.entities + scene.world.relations + i for i in range(setting.filler)),)
        if setting.filler
        else ()
    )

    def group(i: int, *relations: int) -> dict[str, list[Question]]:
        return questions(scene, slice(i * n, (i + 1) * n), (relations[0], relations[1]), filler)

    asked = group(0, 0, 1)
    bridges = (group(1, 0, 2), group(2, 3, 1)) if setting.setup == 8 else (group(1, 0, 1),) * 2
    ours, theirs = (
        [q for name in names for q in bridge[name]]
        for names, bridge in zip(SETUPS[setting.setup], bridges, strict=True)
    )
    return Plan(setting, scene.world.entities, asked, (asked["F1"] + ours, asked["F2"] + theirs))


def coefficients(
    prompts: Sequence[Segments], tokens: int, locality: float, mask: str = "strict"
) -> tuple[Float64[np.ndarray, "prompts tokens"], Float64[np.ndarray, "prompts tokens"]]:
    """(α, β) with h(p) = Σ_t α[p, t] V e_t + β[p, t] e_t, as `model.coefficients` gives them for a prompt of one
    segment."""
    attended, residual = np.zeros((len(prompts), tokens)), np.zeros((len(prompts), tokens))
    for row, (*before, current) in enumerate(prompts):
        near = list(current if mask == "causal" else current[:-1])
        far = [token for segment in before for token in segment]
        share = locality if near and far else float(bool(near))
        np.add.at(attended[row], near, share / max(len(near), 1))
        np.add.at(attended[row], far, (1 - share) / max(len(far), 1))
        residual[row, current[-1]] = 1.0
    return attended, residual


def geometry(plan: Plan, seed: int) -> Float64[np.ndarray, "n n"]:
    """S = σ² H Hᵀ of all prompts' hidden states (`gram.geometry`): the same for all seeds at dim=inf and one block."""
    if plan.setting.beyond_one_block():
        return grams.geometry(plan.prompts, plan.setting, [seed])[0]
    if plan.setting.dim == INF:
        return limit_of_dim(plan)
    (attended, residual), dim, scale = plan.tokens, plan.setting.dim, plan.setting.init_scale
    images, _ = grams.token_images(stream(seed, grams.GEOMETRY, int(dim)), attended.shape[1], int(dim), scale)
    H = attended @ images[1] + residual @ images[0]
    return plan.setting.input_variance * (H @ H.T)


def limit_of_dim(plan: Plan) -> Float64[np.ndarray, "n n"]:
    """S as d → ∞; of several blocks as the widths below the top grow, too."""
    if plan.setting.beyond_one_block():
        return grams.geometry(plan.prompts, replace(plan.setting, dim=INF, width=INF), [0])[0]
    return plan.setting.input_variance * limit_geometry(*plan.tokens, plan.setting.init_scale)


def run(setting: Bridge, seeds: Sequence[int], advance: Callable[[int], object] | None = None) -> list[Result]:
    """One Result a seed."""
    plan = planned(setting)
    if setting.adapted == "all":  # infinite
        found = quantities(plan, tangent_kernel(plan.prompts, setting))
        return [Result(dict(found), dict(found), dict.fromkeys(found, 0.0)) for _ in seeds]
    S = np.stack([geometry(plan, seed) for seed in seeds])
    if setting.width == INF:
        G = kernel(S, setting.activation)
    else:
        G = streamed(S, int(setting.width), grams.feature_keys(setting, seeds), setting.activation, advance)
    predictions: dict[bytes, tuple[Values, Values]] = {}
    results = []
    for shape, one in zip(S, G, strict=True):
        if shape.tobytes() not in predictions:
            predictions[shape.tobytes()] = _predict(plan, shape)
        predicted, stderr = predictions[shape.tobytes()]
        results.append(Result(quantities(plan, one), dict(predicted), dict(stderr)))
    return results


def quantities(plan: Plan, G: Float64[np.ndarray, "n n"]) -> Values:
    """Everything measured, from the Gram matrix of the plan's prompts."""
    phi = grams.nearest_coordinates(G)
    context = Context(width=plan.setting.width)
    update = compose(plan.setting.composition, plan.experts(phi), context, **dials_of(plan.setting))

    def right(name: str, old: bool = False) -> Float64[np.ndarray, " facts"]:
        part = plan.asked[name]
        outputs = plan.one_hot([q.old for q in part]) + update @ phi[:, plan.columns(part)]
        return wins(outputs, np.array([q.old if old else q.new for q in part]))

    values = {
        "hop_1": right("step_1"),
        "hop_2": right("step_2"),
        "two_hop_step_by_step": right("step_1") * right("step_2") + right("step_1", old=True) * right("kept"),
        "two_hop_direct": right("F12"),
    }
    steps = plan.asked["step_1"] + plan.asked["step_2"]
    # Bridge data touches other outputs than these differences, so it is not in the way of the least squares.
    own = np.diagonal(np.linalg.lstsq(plan.differences(steps), update @ phi[:, plan.columns(steps)], rcond=1e-9)[0])
    values |= dict(zip(("c_hop_1", "c_hop_2"), np.split(own, 2), strict=True))
    return {name: float(np.mean(value)) for name, value in values.items()}


def _predict(plan: Plan, S: Float64[np.ndarray, "n n"]) -> tuple[Values, Values]:
    setting = plan.setting
    if setting.width == INF:  # then the step left is d → ∞
        limit = quantities(plan, kernel(limit_of_dim(plan), setting.activation))
        return limit, dict.fromkeys(limit, 0.0) if setting.dim == INF else {}
    limit = quantities(plan, kernel(S, setting.activation))
    smooth = RULES[setting.composition].smooth and not (
        setting.composition.startswith("arrow") and setting.scores == "raw"
    )
    if not smooth or len(S) > MOST_PROMPTS_WITH_ERRORS or dependent(S):
        return limit, {}
    if setting.composition.startswith("arrow") and not sure_signs(S, setting.width, setting.activation).all():
        return limit, {}
    found = expansion(
        lambda G: {n: c for n, c in quantities(plan, G).items() if n in ("c_hop_1", "c_hop_2")},
        S,
        setting.width,
        setting.activation,
    )
    return limit | found.mean, found.errors()
