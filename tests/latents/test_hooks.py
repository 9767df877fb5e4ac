"""What is asked of every latent, asked of every latent; and nobody asks for a class."""

from __future__ import annotations

import ast
import copy
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

import modeflow
from modeflow.densities import Feature
from modeflow.errors import ConfigError
from modeflow.latents import LatentModel, Survey, look
from modeflow.models import VAE, ContinuousNVF, DiscreteNVF, TableModel, TreeNVF
from small_images import small_images

pytest.importorskip("vector_quantize_pytorch")
pytest.importorskip("transformers")

FLOW = {"layers": 1, "hidden_features": 8, "blocks": 1, "bins": 4}


def table() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.5]])
    return centres[torch.arange(240) % 3] + 0.15 * torch.randn(240, 2, generator=generator)


def codes() -> Tensor:
    return torch.stack((torch.arange(240) % 3, torch.arange(240) % 4, torch.arange(240) % 2), 1).float()


def digits() -> Tensor:
    return torch.from_numpy(load_digits().images[:60, None].astype(np.float32))


@dataclass(frozen=True)
class Case:
    """A model, and what it is.

    Attributes:
        build: it, with the same parameters each time. rows: of its kind.
        kind, words, count, unit: of its description. starts: whether it starts on rows.
    """

    build: Callable[[], LatentModel]
    rows: Callable[[], Tensor]
    kind: str
    words: str
    count: int
    unit: str
    starts: bool = False


def seeded(build: Callable[[], LatentModel]) -> Callable[[], LatentModel]:
    def again() -> LatentModel:
        torch.manual_seed(0)
        return build()

    return again


def states(k: int, **options) -> Callable[[], LatentModel]:
    return seeded(lambda: DiscreteNVF(2, k, flow_options=FLOW, encoder_features=(8,), **options))


def image(latent: str, **options) -> Callable[[], LatentModel]:
    return lambda: small_images(latent, "logistic", options)


NONE, STATES = ("none", "one density", 0, ""), ("discrete", "3 states", 3, "state")
Z = ("continuous", "continuous, dimension 2", 2, "z")
TREE = ("tree", "a tree of 2 × 5 states", 5, "state")
CASES = {
    "one state": Case(states(1), table, *NONE),
    "states": Case(states(3), table, *STATES, starts=True),
    "states, elbo": Case(states(3, objective="elbo"), table, *STATES, starts=True),
    "states of codes": Case(
        seeded(lambda: DiscreteNVF([Feature(levels=n) for n in (3, 4, 2)], 3, encoder_features=(8,))),
        codes, *STATES, starts=True,
    ),
    "continuous": Case(
        seeded(lambda: ContinuousNVF(2, 2, flow_options=FLOW, draws=3, encoder_features=(8,))),
        table, *Z, starts=True,
    ),
    "tree": Case(
        seeded(lambda: TreeNVF(2, 5, flow_options=FLOW)), table, *TREE, starts=True
    ),
    "tree, proposal": Case(
        seeded(lambda: TreeNVF(2, 5, flow_options=FLOW, proposal=True)), table, *TREE, starts=True
    ),
    "tree, leaves": Case(
        seeded(lambda: TreeNVF(2, 5, likelihood="leaves")), table, *TREE, starts=True
    ),
    "vae": Case(seeded(lambda: VAE(2, 2, draws=3, posterior="iaf", encoder_features=(8,))), table, *Z, True),
    "images, none": Case(image("none"), digits, *NONE),
    "images, states": Case(image("discrete"), digits, *STATES, starts=True),
    "images, one state": Case(image("discrete", n_states=1), digits, *NONE),
    "images, continuous": Case(image("continuous"), digits, *Z),
    "images, codes": Case(image("sequential"), digits, "codes", "4 codes, 4 an image", 4, "code"),
    "images, string of codes": Case(
        image("sequential", codes_per_image=2, stages=["flow", "prior"]),
        digits, "codes", "4 codes, 2 an image", 4, "code",
    ),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]


def ready(case: Case) -> LatentModel:
    """The model after its first loss, from which codes start, in evaluation mode."""
    model = case.build().train()
    model.objective(case.rows())
    return model.eval()


def parameters(model: LatentModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.state_dict().items()}


def changed(model: LatentModel, before: dict[str, Tensor]) -> bool:
    return any(not torch.equal(p, before[name]) for name, p in model.state_dict().items())


def test_it_starts_on_rows_or_stays_as_it_is(case):
    model, rows = case.build(), case.rows()
    before = parameters(model)
    torch.manual_seed(1)
    model.start(rows, seed=3, steps=2)
    assert changed(model, before) == case.starts and (model.starter is not None or not case.starts)
    again = case.build()
    torch.manual_seed(1)
    again.start(rows, 3, 2)
    assert not changed(again, parameters(model))
    assert model.log_prob(rows).isfinite().all()


def test_a_start_takes_its_own_number_of_steps_at_the_most(monkeypatch):
    for name, own in (("states", 2000), ("continuous", 500), ("images, states", 300)):
        starter = CASES[name].build().starter
        assert starter is not None and starter.steps == own


def test_what_is_known_of_the_rows_is_used():
    x = table()
    one, two = states(3)(), states(3)()
    found = look(x, seed=3)
    assert isinstance(found, Survey)
    for model, rows in ((one, x), (two, found)):
        torch.manual_seed(1)
        model.start(rows, 3, 2)
    assert not changed(one, parameters(two))
    other = CASES["continuous"].build()
    other.start(found, 3, 2)  # its rows, as good as any


def test_stages_are_fitted_in_order_and_then_all_at_once(case):
    model, rows = case.build().train(), case.rows()
    model.objective(rows)
    assert model.stages in (("joint",), ("flow", "prior"), ("proposal", "flow"))
    given = model.schedule
    for number, stage in enumerate(("flow", "prior", "joint") if case.kind == "codes" else model.stages):
        model.at_stage(stage, number)
        now = model.schedule_now
        assert now.stage == stage
        if number:
            assert now.start_steps == 0 and now.codebook_steps == 0
        loss = model.objective(rows, step=0)
        assert loss.value.isfinite()
        with torch.no_grad():
            score = model.eval().validation_log_prob(rows)
        model.train()
        assert score.shape == (len(rows),) and score.isfinite().all()
    model.at_stage()
    assert model.schedule_now == given and model.schedule == given
    with pytest.raises(ConfigError, match="did you mean 'joint'"):
        model.at_stage("jiont")


def test_validation_is_scored_by_what_a_stage_fits():
    model, x = ready(CASES["images, codes"]), digits()
    with torch.no_grad():
        model.at_stage("flow", 0)
        flow = model.validation_log_prob(x)
        model.at_stage("prior", 1)
        prior = model.validation_log_prob(x)
        model.at_stage()
        torch.testing.assert_close(flow + prior, model.validation_log_prob(x))
        torch.testing.assert_close(model.validation_log_prob(x), model.log_prob(x))


def test_validation_is_scored_by_a_close_bound(case):
    model, x = ready(case), case.rows()
    with torch.no_grad():
        exact, quick = model.log_prob(x), model.validation_log_prob(x)
    if case.kind == "discrete":
        assert (quick <= exact + 1e-4).all()
    else:
        assert torch.equal(exact, quick)


def test_it_says_what_it_is(case):
    model = ready(case)
    told = model.describe()
    assert (told.kind, told.words, told.count, told.unit) == (case.kind, case.words, case.count, case.unit)
    z = model.read(case.rows())
    assert len(z) == 60 * (1 if case.rows is digits else 4)
    assert told.whole == (not z.is_floating_point())
    assert model.n_states == len(model.state_probs()) == (3 if case.kind == "discrete" else 1)
    drawn, z = model.draw(5)
    assert (
        len(z) == 5 and (drawn is None) == (case.kind == "none") and told.whole == (not z.is_floating_point())
    )


def test_finishing_switches_off_only_what_holds_nothing(case):
    model, rows = ready(case).train(), case.rows()
    # Bytes, as images are kept, or the other precision.
    other = rows.byte() if case.rows is digits else rows.double()
    assert model.finish(other, other[:50]) == [] and model.training
    if case.kind != "discrete":
        return
    with torch.no_grad():
        model.prior.logits[1] = -40.0
    kept = copy.deepcopy(model)
    assert kept.finish(rows, rows[:50], prune=False) == [] and len(kept.state_probs()) == 3
    weight = torch.ones(len(rows))
    assert model.finish(rows, rows[:50], weight, weight[:50]) == [1]
    told = model.describe()
    assert (told.words, told.count) == ("2 states", 2)


def test_finishing_calibrates_on_validation():
    model, x = ready(CASES["states"]), table()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model.encoder.net.final.weight.mul_(0.4), twin.encoder.net.final.weight.mul_(0.4)
    model.finish(x, x[:40], None, torch.arange(40.0), prune=False)
    assert float(model.encoder.sharpness) == twin.calibrate(x[:40], torch.arange(40.0)) != 1.0


def test_bounds_and_spreads_are_of_a_continuous_latent(case):
    model, x = ready(case), case.rows()
    with torch.no_grad():
        both, spread = model.both_bounds(x), model.read_spread(x)
        if case.kind != "continuous":
            assert both is None and spread is None and model.n_draws == 1
            return
        assert model.n_draws == model.draws > 1
        elbo, iwae = both
        assert (elbo <= iwae).all() and torch.equal(iwae, model.log_prob(x))
        mean, scale = spread
        assert mean.shape == scale.shape == (len(x), 2) and (scale > 0).all()


def test_a_state_can_be_drawn_where_there_are_some(case):
    model = ready(case)
    if case.kind != "discrete":
        with pytest.raises(
            ConfigError, match=f"no state 0: the latent is {case.kind}; fit with latent=discrete"
        ):
            model.draw_state(0, 3)
        return
    context, z = model.draw_state(2, 4)
    assert context.argmax(1).tolist() == [2] * 4 == z.tolist()
    model.prior.switch_off(torch.tensor([0]))
    context, z = model.draw_state(1, 4)  # numbers are of states in use
    assert context.argmax(1).tolist() == [2] * 4 and z.tolist() == [1] * 4
    x, same = model.sample_with_states(4, torch.Generator().manual_seed(0), state=1)
    assert torch.equal(same, z)
    assert torch.equal(x, model.decode(context, 4, torch.Generator().manual_seed(0)))
    with pytest.raises(ConfigError, match=r"state must lie in 0\.\.1, received 2"):
        model.draw_state(2, 1)


def test_what_it_measures_is_plain(case):
    model, x = ready(case), case.rows()
    model.chunk_rows = 13
    told = model.measure(x.byte() if case.rows is digits else x)
    assert json.loads(json.dumps(told)) == told
    if case.kind == "tree":
        assert told["tree"]["edges"] == [[0, 1]] and told["tree"]["states"] == 5
        share = model.node_posterior(x).mean(0).double()
        used = torch.special.entr(share).sum(1).exp().tolist()
        assert told["tree"]["used"] == pytest.approx(used, rel=1e-5)
        return
    if case.kind == "continuous":
        found = told["continuous"]
        assert found["dimensions"] == 2 and 0 <= found["active"] <= 2 and found["rows"] == min(len(x), 128)
        assert found["kl"] == pytest.approx(float(model.latent_cost(x).mean()), rel=1e-4)
        assert "kl_each" not in found or sum(found["kl_each"]) == pytest.approx(found["kl"], rel=1e-4)
        mean, spread = model.read_spread(x)
        noise = spread.square().mean(0) / model.approximate_posterior(x).moment_draws
        active = (mean.var(0) - noise > 0.01).sum()
        assert found["active"] == int(active) and found["mutual_information"] < math.log(found["rows"])
        gaps = found["gaps"]
        whole = gaps["approximation"]["value"] + gaps["amortisation"]["value"]
        assert whole == pytest.approx(gaps["log_prob"]["value"] - gaps["elbo"]["value"], abs=1e-6)
        return
    if case.kind == "discrete":
        found = told["discrete"]
        gap = (model.log_prob(x) - model.elbo(x))[: found["rows"]].mean()
        assert found["gap"] == pytest.approx(float(gap), abs=1e-4 * (1 + abs(float(gap))))
        assert 0 <= found["mutual_information"] <= math.log(found["states"])
        # What states cost is what they say, and what their shares among rows miss of the prior.
        shares = model.posterior(x[: found["rows"]]).mean(0)
        beside = (shares * (shares / model.state_probs()).log()).sum()
        assert found["kl"] == pytest.approx(found["mutual_information"] + float(beside), abs=1e-4)
        return
    if case.kind != "codes":
        assert told == {}
        return
    codes = model.read(x)
    share = torch.bincount(codes.flatten(), minlength=4).double() / codes.numel()
    assert told["codes"]["per_image"] == codes.shape[1] and told["codes"]["used"] == int((share > 0).sum())
    assert told["codes"]["perplexity"] == pytest.approx(model.perplexity(x))


def test_a_model_is_rebuilt_by_options_of_its_own(case):
    options = case.build().rebuild_options()
    if case.kind != "codes":
        assert options == {}
        return
    assert options == {"prior_options": {"width": 16, "layers": 1, "heads": 2, "dropout": 0.0}}


def test_the_network_is_called_encoder_everywhere(case):
    model = case.build()
    if case.kind in ("none", "tree"):  # there is nothing to encode, or the posterior is exact
        return
    assert isinstance(model.encoder, torch.nn.Module)
    assert model.eval().approximate_posterior(case.rows()) is not None


def test_tables_are_made_by_the_name_of_a_latent():
    assert TableModel(2, "discrete", 3, flow_options=FLOW).describe().words == "3 states"
    made = TableModel(2, "continuous", 3, flow_options=FLOW, latent_options={"features": 1})
    assert made.describe().words == "continuous, dimension 1"
    made = TableModel(2, "tree", 3, flow_options=FLOW, latent_options={"states": 4})
    assert made.describe().words == "a tree of 2 × 4 states"
    with pytest.raises(
        ConfigError,
        match="latent must be 'discrete', 'tree', 'continuous' or 'sequential', received 'discret'",
    ):
        TableModel(2, "discret")


ROOT = Path(modeflow.__file__).parent


def test_nobody_else_asks_a_latent_for_its_class():
    latents = {
        name for name in dir(modeflow.latents) if name.endswith("LatentModel") and name != "LatentModel"
    }
    assert len(latents) == 4
    asked = []
    for file in ROOT.rglob("*.py"):
        if file.is_relative_to(ROOT / "latents"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
                names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                names |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
                if names & latents:
                    asked.append(f"{file.name}:{node.lineno}")
    assert asked == []
