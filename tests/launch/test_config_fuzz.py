"""Whatever is written behind --config., it is understood or refused in one line."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch import lookup
from trove_jax.core.errors import UsageError

EXPERIMENTS = sorted(lookup.experiment_names())
FEW = settings(max_examples=40, deadline=None, derandomize=True, database=None)

LITERALS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.complex_numbers(max_magnitude=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
).map(repr)
ODDITIES = st.sampled_from(
    [
        "",
        " ",
        "\0",
        "\n1",
        "1\n2",
        "-1",
        "1" + "0" * 400,
        "-" * 5000 + "1",
        "(" * 300,
        "[" * 90 + "]" * 90,
        "1e999",
        "nan",
        "{[1]: 2}",
        "{1, 2}",
        "1j",
        "...",
        "__import__('os').system('false')",
        "open('/dev/null')",
        "None",
        "True",
        "0x10",
        "1_0",
        "٣",
        "\udcff",
        "é" * 300,
        "'",
        "(1,",
        "b'1'",
        "lambda: 0",
    ]
)
TEXTS = LITERALS | ODDITIES | st.text(max_size=30)


def is_one_line(message: str) -> bool:
    return message.isprintable() and len(message) < 2000


def resolve(experiment, override):
    """The configuration, or the message of the refusal; another error ends the test."""
    try:
        return lookup.resolve_config(experiment, "smoke", [override]), ""
    except UsageError as error:
        return None, str(error)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_value_becomes_what_it_replaces_or_is_refused(name):
    experiment = lookup.load_experiment(name)
    known = lookup._flat_keys(experiment.get_config("smoke"))

    @FEW
    @given(st.sampled_from(sorted(known)), TEXTS)
    def check(key, text):
        config, refusal = resolve(experiment, f"--config.{key}={text}")
        if config is None:
            assert is_one_line(refusal), refusal
            return
        flat = lookup._flat_keys(config)
        value = flat.pop(key)
        assert flat == {k: v for k, v in known.items() if k != key}
        if known[key] is not None:
            assert type(value) is type(known[key])
        # What config.json keeps of it is the same again after it was read.
        kept = json.dumps(config.to_dict(), allow_nan=False)
        assert json.dumps(json.loads(kept)) == kept
        if not isinstance(value, str):
            again, _ = resolve(experiment, f"--config.{key}={value!r}")
            assert again == config

    check()


@FEW
@given(st.text(max_size=20), st.text(max_size=10))
def test_an_unknown_key_is_refused(key, text):
    experiment = lookup.load_experiment("lottery_ticket")
    with pytest.raises(UsageError) as caught:
        lookup.resolve_config(experiment, "smoke", [f"--config.{key}={text}"])
    assert is_one_line(str(caught.value))
    with pytest.raises(UsageError):
        lookup.resolve_config(experiment, key, [])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds=0", "seeds=0 leaves nothing to train"),
        ("tickets.learning_rate=1e999", "is no finite number"),
        ("tickets.learning_rate=1" + "0" * 400, "is no finite number"),
        ("tickets.features=('a', 'b')", "members than (32, 16): they must be int"),
        ("tickets.features={[1]: 2}", "is no tuple"),
        ("tickets.rounds=1\n2", r"tickets.rounds='1\n2' is no int"),
    ],
)
def test_what_is_wrong_is_said(override, message):
    experiment = lookup.load_experiment("lottery_ticket")
    with pytest.raises(UsageError) as caught:
        lookup.resolve_config(experiment, "smoke", [f"--config.{override}"])
    assert message in str(caught.value)


def test_integers_stand_for_floats_also_in_tuples():
    experiment = lookup.load_experiment("lottery_ticket")
    override = "--config.rewinding.residual_mlp.drops=[0, 1]"
    drops = lookup.resolve_config(experiment, "smoke", [override]).rewinding.residual_mlp.drops
    assert drops == (0.0, 1.0)
    assert {type(drop) for drop in drops} == {float}


@pytest.mark.parametrize("error", [ValueError("bad\nvalue"), ZeroDivisionError(), KeyError("k")])
def test_what_fails_on_given_values_is_one_line_and_what_fails_without_is_ours(error):
    with (
        pytest.raises(UsageError, match=r"with --config.a=1; the preset without it runs") as caught,
        lookup.blame_overrides(["--config.a=1"]),
    ):
        raise error
    assert is_one_line(str(caught.value))
    with pytest.raises(type(error)), lookup.blame_overrides([]):
        raise error


def plan_of_lottery_ticket(key, value):
    experiment = lookup.load_experiment("lottery_ticket")
    overrides = [f"--config.{key}={value}"]
    config = lookup.resolve_config(experiment, "smoke", overrides)
    with lookup.blame_overrides(overrides):
        return experiment.plan(config)


def test_a_plan_of_negative_numbers_is_refused():
    with pytest.raises(UsageError, match=r"steps=-3 is negative \(with --config.tickets.steps=-3"):
        plan_of_lottery_ticket("tickets.steps", -3)


@pytest.mark.parametrize(("key", "value"), [("tickets.rounds", 0), ("tickets.features", ())])
def test_a_plan_of_nothing_is_made(key, value):
    stages = plan_of_lottery_ticket(key, value)
    assert [stage.name for stage in stages] == ["winning tickets", "rewinding"]
    assert all(stage.total_steps > 0 for stage in stages)
