"""Two models that were fitted to the end, one beside the other: scores, states, samples, files, holes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import safetensors
import torch
from small_estimators import FAST, alone, edit, islands, surprises_by_grid

from modeflow import NVF
from modeflow.errors import ModelFileError
from modeflow.estimators import ensembles, stacking
from modeflow.estimators import load_estimator as load
from modeflow.estimators.selection import Selection
from modeflow.estimators.storage import read_header
from modeflow.estimators.trials import Choice
from modeflow.export import export_density

OPTIONS = {k: v for k, v in FAST.items() if k != "flow"} | {"max_epochs": 2}
FLOW, TREE = "nsf-autoregressive", "tree"
KINDS = {
    "flow, tree": (Choice(FLOW, 1), Choice(TREE, 16)),
    "tree, states": (Choice(TREE, 16), Choice(FLOW, 3)),
}


def both(choices, ensemble=1, rows=None):
    """A model with another beside it, a quarter each for all that share the mass."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Selection, "run", lambda *_: choices[0])
        patch.setattr(Selection, "second", lambda *_: choices[1])
        patch.setattr(ensembles, "_gain", lambda *_: (1.0, 2.0))  # whatever rows say: the second stays second
        patch.setattr(
            stacking, "share_of", lambda columns, *_: np.full(columns.shape[1], 1 / columns.shape[1])
        )
        return NVF(**OPTIONS, ensemble=ensemble).fit(islands() if rows is None else rows)


@pytest.fixture(scope="module", params=list(KINDS))
def fitted(request):
    return both(KINDS[request.param])


def parts(estimator, X):
    """Log-densities of the model, of what stands beside it, and of the other model; and its weight."""
    model = estimator._scorer()
    u, logabsdet = model.encode(torch.from_numpy(X))
    with torch.no_grad():
        found = model.model.log_prob(u), model.beside.log_prob(u), model.beside.other.log_prob(u)
    return [(each + logabsdet).numpy() for each in found]


def test_the_density_is_the_weighted_sum(fitted):
    X = islands(60, 3)
    own, beside, other = parts(fitted, X)
    shares = fitted.stacking_
    assert shares.other == pytest.approx(0.25) and shares.fit in shares.words
    expected = np.logaddexp(
        np.logaddexp(own + math.log(shares.model), beside), other + math.log(shares.other)
    )
    np.testing.assert_allclose(fitted.score_samples(X), expected, rtol=1e-10)
    assert np.abs(own - other).max() > 0.1
    assert fitted.density_kind_ == "exact"


def test_states_are_those_of_the_model(fitted):
    X = islands(60, 3)
    np.testing.assert_allclose(fitted.predict_proba(X), alone(fitted, X)[1], atol=1e-12)


def test_files_hold_both(fitted, tmp_path):
    path = fitted.save(tmp_path / "model.safetensors")
    again = load(path)
    X = islands(40, 5)
    np.testing.assert_array_equal(again.score_samples(X), fitted.score_samples(X))
    assert again.stacking_ == fitted.stacking_ and again.beside_ == fitted.beside_
    np.testing.assert_array_equal(again.sample(50, random_state=1)[0], fitted.sample(50, random_state=1)[0])
    assert again.save(tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    # What knows nothing of a second model must refuse the file, and can read one without.
    assert read_header(path)["format_version"] == 5
    alone = NVF(3, **FAST, stacking=True).fit(islands()).save(tmp_path / "alone.safetensors")
    assert read_header(alone)["format_version"] == 4
    with safetensors.safe_open(alone, "pt") as file:
        names = set(file.keys())
    assert {"beside.means", "beside.tail"} < names and "beside.log_other" not in names


def test_a_file_of_another_other_is_refused(fitted, tmp_path):
    path = fitted.save(tmp_path / "model.safetensors")
    other = {"flow": "realnvp", "flow_options": {}, "latent": "discrete", "latent_options": None}
    edit(path, lambda content: content["beside"].update(other))
    with pytest.raises(ModelFileError, match="damaged or foreign"):
        load(path)


def test_samples_come_from_both(fitted):
    """Shares of draws that come from elsewhere; false alarm below 1e-5 (five standard errors of a share)."""
    model = fitted.model_
    n, away = 4000, 1 - fitted.stacking_.model
    with torch.no_grad():
        _, chosen = model.mixed_in(torch.zeros(n, 2), torch.Generator().manual_seed(0))
    assert abs(chosen.double().mean().item() - away) < 5 * math.sqrt(away * (1 - away) / n)
    X, z = fitted.sample(200, random_state=0)
    assert X.shape == (200, 2) and len(z) == 200 and np.isfinite(X).all()
    assert fitted.sample(50, temperature=0.5, random_state=0)[0].shape == (50, 2)


@pytest.mark.parametrize("second", [Choice(FLOW, 3), Choice(FLOW, 1)], ids=["states", "flow"])
def test_priors_of_both_are_cooled(second, monkeypatch):
    fitted = both((Choice(TREE, 16), second))
    seen, other = [], fitted.model_.beside.other
    draw = other.draw
    monkeypatch.setattr(other, "draw", lambda n, g=None, t=1.0: seen.append(t) or draw(n, g, t))
    X, _ = fitted.sample(200, prior_temperature=0.5, random_state=0)
    assert seen == [0.5 if second.n_states > 1 else 1.0] and np.isfinite(X).all()


def test_surprises_and_conditionals_are_of_both(fitted):
    X = islands(2, 1)
    found = fitted.surprises(X)
    np.testing.assert_allclose(found, surprises_by_grid(fitted, X, 20_001), atol=2e-2)
    for j in range(2):
        holes = X.copy()
        holes[:, j] = np.nan
        name = fitted.domain_.names[j]
        np.testing.assert_allclose(fitted.log_prob_given(X, name), -found[:, j], atol=2e-2)
        filled = fitted.impute(holes)[0]
        assert np.isfinite(filled).all() and (filled[:, 1 - j] == X[:, 1 - j]).all()


def test_an_ensemble_has_it_beside(tmp_path):
    several = both(KINDS["flow, tree"], ensemble=2)
    X = islands(30, 2)
    assert several.stacking_.other == pytest.approx(0.25) and several.chosen_.get("ensemble", 2) == 2
    again = load(several.save(tmp_path / "model.safetensors"))
    np.testing.assert_array_equal(again.score_samples(X), several.score_samples(X))


@pytest.mark.parametrize("choices", KINDS.values(), ids=list(KINDS))
def test_columns_on_lattices_have_the_same_maps(choices):
    """Their noise is drawn: whatever a model drew before must not move the maps that the other stands on."""
    rng = np.random.default_rng(0)
    rows = np.c_[rng.poisson(3, 300), rng.normal(size=300)].astype(float)
    seen, same = [], ensembles._same_maps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensembles, "_same_maps", lambda *models: seen.append(same(*models)) or seen[-1])
        both(choices, rows=rows)
    assert seen == [True]


def test_both_are_exported(tmp_path):
    fitted = both(KINDS["tree, states"])
    export_density(fitted, tmp_path / "a.pt2")
    X = islands(40, 2)
    found = torch.export.load(tmp_path / "a.pt2").module()(torch.from_numpy(X))
    np.testing.assert_allclose(found.detach().numpy(), fitted.score_samples(X), rtol=1e-8)
