"""All scores at once: the same as each alone, and memory of training rows shows."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from synthetic_tables import CATEGORICAL, mixed, shuffled

from modeflow.errors import ConfigError
from modeflow.metrics import synthetic
from modeflow.metrics.synthetic.summary import FIDELITY

QUICK = ("shape", "trend", "mutual_information", "logistic", "precision_recall", "train_share", "near_copies")


def test_the_report_has_what_each_function_gives():
    pytest.importorskip("xgboost")
    real, fake, test = mixed(200), shuffled(mixed(200, 1)), mixed(60, 2)
    found = synthetic.report(real, fake, test, CATEGORICAL, target="flag", n_jobs=1)
    assert found.train.shape == synthetic.shape(real, fake, CATEGORICAL)
    assert found.train.trend == synthetic.trend(real, fake, CATEGORICAL)
    assert found.train.mutual_information == synthetic.mutual_information(real, fake, CATEGORICAL)
    assert found.train.xgboost == synthetic.detection(real, fake, CATEGORICAL, n_jobs=1)
    assert found.train.logistic == synthetic.detection(real, fake, CATEGORICAL, "logistic")
    assert found.train.precision_recall == synthetic.precision_recall(real, fake, CATEGORICAL)
    assert found.train_share == synthetic.train_share(real, fake, test, CATEGORICAL)
    assert found.near_copies == synthetic.near_copies(real, fake, test, CATEGORICAL)
    assert found.utility == synthetic.utility(fake, test, "flag", CATEGORICAL, n_jobs=1)
    names = {"shape", "trend", "nmi_l1_weighted_complement", "nmi_l1_complement", "xgb_detection"}
    names |= {"lr_detection", "alpha_precision", "beta_recall", "dcr", "dcr002", "dcr005", "mle"}
    assert set(found.scores()) == names
    content = json.loads(json.dumps(found.to_dict()))
    assert content["train_part"]["rows"] == content["test"]["rows"] == [60, 60]
    assert content["utility"]["score"] == found.scores()["mle"]
    assert str(found).count("\n") == len(names) and "held out" in str(found)


def test_memory_shows_and_new_rows_have_none():
    real, test = mixed(300), mixed(300, 1)
    copies = synthetic.report(real, real, test, CATEGORICAL, measures=QUICK)
    assert copies.train.scores()["shape"] == copies.train_part.scores()["shape"] == 1
    memory = copies.memory()
    # Of copies the recall is 1 against trained rows, about 1/2 against new ones.
    assert memory["beta_recall"] > 0.3 and memory["shape"] > 0.01 and memory["trend"] > 0.01
    assert copies.near_copies.copies == 100 and copies.train_share.share > 0.95
    fresh = synthetic.report(real, mixed(300, 2), test, CATEGORICAL, measures=QUICK)
    # Both sides compare 300 rows of one truth with the same 300: ten standard deviations over seeds.
    assert abs(fresh.memory()["shape"]) < 0.1 and abs(fresh.memory()["beta_recall"]) < 0.3


def test_frames_of_polars_and_draws_by_seed():
    real, fake, test = (pl.DataFrame(mixed(n, n).to_dict("list")) for n in (90, 80, 30))
    options = {"categorical": CATEGORICAL, "measures": ("shape", "logistic")}
    first, again, other = (synthetic.report(real, fake, test, seed=s, **options) for s in (0, 0, 1))
    assert first == again and first.train.shape == other.train.shape
    assert first.test != other.test and first.train.logistic != other.train.logistic


def test_without_held_out_rows_only_fidelity_is_left():
    real = mixed(60)
    names = [name for name in FIDELITY if name != "xgboost"]
    found = synthetic.report(real, mixed(60, 1), categorical=CATEGORICAL, measures=names)
    assert found.test is None and found.memory() == {} and "held out" not in str(found)
    assert (
        found.train_share is None
        and found.train.xgboost is None
        and np.isfinite(list(found.scores().values())).all()
    )


BAD = {
    "unknown": ({"measures": ["shapes"]}, "did you mean 'shape'"),
    "one text": ({"measures": "shape"}, "give a list"),
    "lacks test": ({"measures": ["near_copies"]}, "'near_copies' needs test"),
    "lacks target": ({"measures": ["utility"], "test": mixed(20, 2)}, "'utility' needs target"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_measures_that_cannot_be(case):
    options, message = BAD[case]
    with pytest.raises(ConfigError, match=message):
        synthetic.report(mixed(20), mixed(20, 1), categorical=CATEGORICAL, **options)
