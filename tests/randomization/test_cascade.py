"""The options of a cascade: what they may be, and where they go."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict

import numpy as np
import pytest
from randomized import conv_net, images

import salience
from salience import Cascade, SalienceError, randomization_test


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "topdown"}, "known order .*Did you mean 'top_down'"),
        ({"weights": "norml"}, "known initialiser .*Did you mean 'normal'"),
        ({"batch_norm": "recalibrated"}, "treatment of BatchNorm .*Did you mean 'recalibrate'"),
        ({"repeats": 0}, "repeats, a whole number of at least 1; got 0. The default is 5"),
        ({"repeats": True}, "repeats, a whole number of at least 1; got True"),
        ({"seed": -1}, "seed, a whole number of at least 0; got -1"),
        ({"stages": 0}, '"all" or a number of stages; got 0. Score at most as many'),
        ({"stages": "second_half"}, "got 'second_half'"),
        ({"stages": 1.5}, "got 1.5"),
        ({"stages": True}, "got True"),
    ],
)
def test_what_no_cascade_is(options, message):
    with pytest.raises(SalienceError, match=message):
        Cascade(**options)


def test_a_cascade_is_a_value():
    cascade = Cascade(repeats=3)
    assert cascade == Cascade("top_down", "all", 3, "own", "keep", 0) != Cascade()
    assert {cascade: 1}[Cascade(repeats=3)] == 1
    with pytest.raises(FrozenInstanceError):
        cascade.repeats = 4  # type: ignore[misc]


def test_the_dataset_tells_its_cascade():
    cascade = Cascade("bottom_up", 2, 1, "permute", "reset", 7)
    data = randomization_test(conv_net(), images(2, 1, 8, 8), "gradient", 0, cascade).data
    assert {name: data.attrs[name] for name in asdict(cascade)} == asdict(cascade)
    assert Cascade(**{name: data.attrs[name] for name in asdict(cascade)}) == cascade
    plain = randomization_test(conv_net(), images(2, 1, 8, 8), "gradient", 0).data
    assert {name: plain.attrs[name] for name in asdict(cascade)} == asdict(Cascade())
    assert plain.sizes["repeat"] == 5 and not np.isnan(plain["spearman"]).any()


def test_keywords_of_the_cascade_are_told_where_they_belong():
    net, x = conv_net(), images(2, 1, 8, 8)
    wanted = (
        r"^randomization_test\(\) got an unexpected keyword argument 'repeats'; did you mean "
        r"cascade=salience.Cascade\(repeats=3, order='bottom_up'\)\?$"
    )
    with pytest.raises(TypeError, match=wanted):
        randomization_test(net, x, repeats=3, order="bottom_up")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'epochs'$"):
        randomization_test(net, x, epochs=3)  # type: ignore[arg-type]
    with pytest.raises(SalienceError, match=r"a salience.Cascade for cascade; got 3. Such as"):
        randomization_test(net, x, "gradient", 0, 3)  # type: ignore[arg-type]


def test_more_stages_than_there_are_is_found_on_the_network():
    with pytest.raises(SalienceError, match=r"got 4 \(the network has 3\)"):
        salience.randomization_test(
            conv_net(), images(2, 1, 8, 8), "gradient", 0, Cascade(stages=4)
        )
