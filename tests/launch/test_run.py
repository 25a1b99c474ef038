"""launch.run and launch.list as they are typed: refusals, interruption, resumption, the end."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
SMALL = (
    "--experiment=lottery_ticket",
    "--preset=smoke",
    "--config.tickets.rounds=1",
    "--config.tickets.shown_rounds=1,",
    "--config.rewinding.residual_mlp.k=0,4,8",
    "--config.rewinding.residual_mlp.late=8",
)
# Many short stages, so that there is something to come after the first metrics.
STAGES = ("--experiment=dgmlp", "--preset=smoke", "--save_every=2", "--log_every=1")


def start(module, *arguments, cache=None):
    environment = dict(os.environ)
    if cache is not None:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return subprocess.Popen(
        [sys.executable, "-m", f"launch.{module}", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(module, *arguments, cache=None):
    process = start(module, *arguments, cache=cache)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


MISTAKES = (
    ([], "--experiment=NAME is missing"),
    (["--experiment=lotery_ticket"], "'lotery_ticket'; did you mean 'lottery_ticket'?"),
    ([SMALL[0], "--preset=smok"], "no preset is called 'smok'; did you mean 'smoke'?"),
    (
        [SMALL[0], "--config.tickets.round=3"],
        "no key 'tickets.round'; did you mean 'tickets.rounds'?",
    ),
    ([SMALL[0], "--config.seeds=many"], "--config.seeds=many is no int"),
    ([SMALL[0], "--config.seeds=1.5"], "is float; it replaces 10"),
    ([SMALL[0], "--config.seeds"], "sets nothing"),
    ([SMALL[0], "--config.seeds=-1"], "--config.seeds=-1 leaves nothing to train"),
    ([SMALL[0], "--sedes=3"], "sedes"),
    ([SMALL[0], "stray"], "unexpected argument 'stray'"),
    ([SMALL[0], "--seeds=0"], "seeds"),
)


def test_mistakes_are_refused_in_one_line_with_exit_code_2(tmp_path):
    commands = [["run", *arguments] for arguments, _ in MISTAKES]
    done = subprocess.run(
        [sys.executable, "-m", "tests.launch.typed", str(tmp_path)],
        cwd=ROOT,
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [2] * len(MISTAKES)
    for number, (_, message) in enumerate(MISTAKES):
        found = tmp_path / str(number)
        lines = [line for line in (found / "err").read_text().splitlines() if line]
        assert not (found / "out").read_text()
        assert len(lines) == 1, lines
        assert message in lines[0]


def test_missing_data_is_one_line_that_says_what_to_do(tmp_path):
    code, _, err = run(
        "run", SMALL[0], "--preset=paper", f"--workdir={tmp_path}", f"--data_dir={tmp_path}"
    )
    assert code == 66
    assert "launch.data --prepare=" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_dry_run_prints_configuration_data_steps_and_memory(tmp_path):
    code, out, _ = run("run", *SMALL, "--dry_run", f"--workdir={tmp_path / 'none'}")
    assert code == 0
    assert '"rounds": 1' in out
    assert "data digits:" in out
    assert "MiB" in out
    assert not (tmp_path / "none").exists()


def test_the_list_names_experiments_presets_and_data():
    code, out, _ = run("list", "--runs=/nonexistent")
    assert code == 0
    assert "01  lottery_ticket" in out
    assert "smoke laptop" in out
    assert "not run here" in out


def test_interrupted_continued_finished_and_refused(tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    code, _, err = run("run", *STAGES, f"--workdir={tmp_path / 'straight'}", cache=tmp_path)
    assert code == 0, err

    process = start("run", *STAGES, workdir, cache=tmp_path)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "the same command continues" in err.splitlines()[-1]

    code, out, err = run("run", *STAGES, workdir, cache=tmp_path)
    assert code == 0, err
    assert "continuing in" in err
    evidence = [
        json.loads((tmp_path / r / "evidence.json").read_text()) for r in ("run", "straight")
    ]
    assert evidence[0]["arms"] == evidence[1]["arms"]
    assert "C3-edges" in out

    code, again, _ = run("run", *STAGES, workdir, cache=tmp_path)
    assert code == 0
    assert "is finished" in again
    assert [x for x in out.splitlines() if "C3-" in x] == [
        x for x in again.splitlines() if "C3-" in x
    ]

    code, _, err = run("run", *STAGES, "--seeds=3", workdir, cache=tmp_path)
    assert code == 2
    assert "config.seeds is 2 there and 3 here" in err

    code, out, _ = run("list", f"--runs={tmp_path}")
    assert "smoke 20" in out
