"""Recipes: what is wrong is found, named, and answered with what is right."""

import random
import subprocess
import sys
import tomllib

import pytest

from pipelines.recipe.errors import UserError
from pipelines.recipe.load import dump_recipe, load_recipe, parse_recipe
from tests.support.files import REFUSED_RECIPES

SMALLEST = """
[loop]
steps = 2
[data]
train = "prompts.jsonl"
[rollout]
[reward]
model = "judge"
[policy]
model = "image"
"""


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(SMALLEST)
    return path


def test_overrides_reach_any_key(recipe_file):
    recipe = load_recipe(
        recipe_file,
        [
            "rollout.size=2",
            "loop.order=ready",
            "run.seed=7",
            "data.mix={a = 3, b = 5}",
            "heldout.guidance_scales=[1, 2.5]",
        ],
    )
    assert (recipe.rollout.size, recipe.loop.order, recipe.run.seed) == (2, "ready", 7)
    assert recipe.data.mix == {"a": 3, "b": 5}
    assert recipe.heldout.guidance_scales == (1.0, 2.5)


def test_the_resolved_recipe_reads_back_the_same(recipe_file):
    recipe = load_recipe(recipe_file, ['run.notes=["a \\"quoted\\" line\\nand another"]', "data.mix={a = 8}"])
    assert parse_recipe(tomllib.loads(dump_recipe(recipe)), "dump") == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.chunck=2", "rollout.chunck: no such key; did you mean chunk?"),
        ("rollouts.size=2", "rollouts: no such key; did you mean rollout?"),
        ("objective.zzz=1", "objective.zzz: no such key; allowed are type, advantage_std, "),
        ("objective.clip_rang=1.0", "objective.clip_rang: no such key; did you mean clip_range?"),
        ("objective={type = 'nft', bet = 1.0}", "objective.bet: no such key; did you mean beta?"),
        ("objective={type = 'grpo'}", 'objective.type = "grpo": allowed are "awm", "flow_grpo", "nft"'),
        ("objective={type = 'nft', beta = 0.0}", "objective.beta = 0.0: must be greater than 0"),
        (
            "objective={type = 'flow_grpo', window = 10}",
            "objective.window = 10 steps are to be trained, but rollout.steps = 10",
        ),
        (
            "objective={type = 'flow_grpo', window = 3, timestep_start = 0.5, timestep_fraction = 0.7}",
            "objective.timestep_start and objective.timestep_fraction leave 2",
        ),
        ("objective={type = 'flow_grpo', step_weights = 'late'}", 'allowed are "equal", "noise" or "even"'),
        ("objective.step_weights=even", 'step_weights: no such key; there is objective.step_weights of "flow_grpo"'),
        ("policy.lora_rank=many", 'policy.lora_rank = "many": an integer is expected, such as 8'),
        ("rollout.group_size=1", "rollout.group_size = 1: must be greater than or equal to 2"),
        ("rollout.group_size=8.0", "rollout.group_size = 8.0: an integer is expected"),
        ("rollout.noise=group", 'objective.type = "awm": all images of a group would be the same'),
        ("rollout.compile=true", "rollout.compile = true with loop.order"),
        (
            "policy.compile=true",
            "could not be repeated to the bit; leave compile out, or set run.deterministic = false",
        ),
        ("policy.dtype=float8", 'allowed are "auto", "float32", "bfloat16" or "float16"'),
        ("loop.order=random", 'allowed are "strict" or "ready"'),
        ("rollout.chunk=3", "rollout.chunk = 3 does not divide rollout.group_size = 8: choose one of [1, 2, 4, 8]"),
        ("rollout.groups_per_task=9", "but a step has only rollout.prompts_per_step = 8 groups: choose from 1 to 8"),
        ("rollout={groups_per_task = 2, chunk = 4}", "leave rollout.chunk out, or set rollout.groups_per_task = 1"),
        ("data.mix={a = 3}", "data.mix takes 3 prompts a step but rollout.prompts_per_step = 8"),
        ("objective.timesteps_per_sample=12", "lower the first or raise rollout.steps"),
        ("objective.timesteps_per_sample=9", 'leave 8 for objective.timesteps = "discrete_wo_init"'),
        (
            "objective={type = 'nft', timesteps = 'subset', timesteps_per_sample = 11}",
            "leave 10 for objective.timesteps",
        ),
        ("reward={model = 'm', transform = 'exp', reduction = 'sum'}", 'use reward.reduction = "mean"'),
        ("heldout.guidance_scales=[]", "heldout.guidance_scales = []: at least 1 are expected"),
        ("run.seed", "give key=value"),
        ("=3", "give key=value"),
        ("run..seed=3", "give key=value"),
        ("run.seed.deep=1", "seed is a value, not a table: 1"),
        ("run.name=\udcff", "not UTF-8"),
        ("objective=awm", 'objective = "awm": a table is expected: objective.type = "awm"'),
        ("objective=[]", "objective: tables are given, [[objective]], but one is expected: [objective]"),
        ("objective.type=3", 'objective.type = 3: allowed are "awm", "flow_grpo", "nft"'),
        ("objective.type=['awm']", 'objective.type = ["awm"]: allowed are "awm", "flow_grpo", "nft"'),
        ("loop=3", "loop = 3: a table is expected: [loop]"),
        ("cluster.autoscale=true", "cluster.autoscale = true: a table is expected: [cluster.autoscale]"),
        ("reward=[{model = 'm'}]", "reward[0].name: missing, and it has no default"),
        ("loop.steps={a = 1}", "loop.steps = {a = 1}: an integer is expected"),
        ("heldout.guidance_scales=1.0", "guidance_scales = 1.0: an array is expected: heldout.guidance_scales = [1.0]"),
        ("run.notes=hello", 'run.notes = "hello": an array is expected: run.notes = ["hello"]'),
        ("data.mix=single=1", 'data.mix = "single=1": a table is expected, such as {name = 1}'),
        ("data.mix.a='1'", 'data.mix.a = "1": an integer is expected'),
        ("run.name=2024", 'run.name = 2024: text is expected, in quotes: run.name = "2024"'),
        ("run.name=2024-01-01", 'run.name = 2024-01-01: text is expected, in quotes: run.name = "2024-01-01"'),
        ("run.name=true", 'run.name = true: text is expected, in quotes: run.name = "true"'),
        ("monitor.tensorboard=yes", 'monitor.tensorboard = "yes": true or false is expected'),
        ("policy.betas=[0.9]", "policy.betas: 2 values are expected, in an array"),
        ("policy.betas=[0.9, 0.99, 0.999]", "policy.betas = [0.9, 0.99, 0.999]: at most 2 are expected"),
        ("policy.betas=[2.0, 3.0]", "policy.betas[0] = 2.0: must be less than 1"),
        ("policy.betas=[0.9, 1]", "policy.betas[1] = 1: must be less than 1"),
        ("policy.betas=[-0.1, 0.9]", "policy.betas[0] = -0.1: must be greater than or equal to 0"),
        ("policy.learning_rate=inf", "policy.learning_rate = inf: a finite number is expected"),
        ("policy.lora_alpha=inf", "policy.lora_alpha = inf: a finite number is expected"),
        ("policy.max_grad_norm=nan", "policy.max_grad_norm = nan: a finite number is expected"),
        ("heldout.guidance_scales=[1.0, inf]", "heldout.guidance_scales[1] = inf: a finite number is expected"),
        ("rollout.resources={a = inf}", "rollout.resources.a = inf: a finite number is expected"),
        ("rollout.resources={a = -1}", "rollout.resources.a = -1: must be greater than or equal to 0"),
        ("policy.resources={GPU = 1.0}", "policy.resources = {GPU = 1.0}: num_gpus says how many"),
        ("run.threads=100000000", "run.threads = 100000000: must be less than or equal to 1024"),
        ("objective.kl_ema=inf", "objective.kl_ema = inf: a finite number is expected"),
        ("cluster.autoscale.queue_s=inf", "cluster.autoscale.queue_s = inf: a finite number is expected"),
        ("policy.learning_rate=3.0", "policy.learning_rate = 3.0: must be less than or equal to 1"),
        ("cluster.task_timeout_s=1e300", "must be less than or equal to 100000000"),
        ("loop.steps=99999999999999999999", "loop.steps: the integer is beyond 64 bits"),
        ("run.notes=[1, 99999999999999999999]", "run.notes[1]: the integer is beyond 64 bits"),
        ("loop.steps=" + "9" * 5000, "an integer beyond 64 bits"),
        ("run.notes=" + "[" * 5000, "nested too deeply"),
        ("rollout.lora_rank=8", "rollout.lora_rank: no such key; there is policy.lora_rank"),
        ("steps=8", "steps: no such key; there is loop.steps and rollout.steps and heldout.steps"),
        ("objective.noise_level=0.5", 'noise_level: no such key; there is objective.noise_level of "flow_grpo"'),
        ("data.caption=3", 'data.caption = 3: text is expected, in quotes: data.caption = "3"'),
    ],
)
def test_a_mistake_is_named(recipe_file, override, message):
    recipe_file.write_text(SMALLEST.replace("[loop]", "[run]\nseed = 1\n[loop]"))
    with pytest.raises(UserError) as error:
        load_recipe(recipe_file, [override])
    assert message in str(error.value)


def test_missing_keys_are_all_named(recipe_file):
    recipe_file.write_text("[loop]\n[data]\n[rollout]\n[reward]\n[policy]\n")
    with pytest.raises(UserError) as error:
        load_recipe(recipe_file)
    for key in ("loop.steps", "data.train", "reward.model", "policy.model"):
        assert f"{key}: missing" in str(error.value)


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ('data.mix."a.b"=8', {"a.b": 8}),
        ("data.mix.'a=b'=8", {"a=b": 8}),
        ("data.mix.größe=8", {"größe": 8}),
        ("data.mix.two words=8", {"two words": 8}),
        (" data.mix . a = 8 ", {"a": 8}),
    ],
)
def test_names_in_overrides_may_be_any(recipe_file, override, found):
    assert load_recipe(recipe_file, [override]).data.mix == found


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("two words", "two words"),
        ('"2024"', "2024"),
        ("a=b", "a=b"),
        ("", ""),
        ("# no", "# no"),
        ("a\nseed = 3", "a\nseed = 3"),
    ],
)
def test_a_value_that_is_no_toml_is_text(recipe_file, text, name):
    recipe = load_recipe(recipe_file, [f"run.name={text}"])
    assert (recipe.run.name, recipe.run.seed) == (name, 0)


def test_of_several_overrides_the_last_one_counts(recipe_file):
    assert load_recipe(recipe_file, ["run.seed=1", "run.seed=2"]).run.seed == 2


FILES = {
    "bad.toml": (b"[loop\n", "is not TOML: "),
    "twice.toml": (b"[loop]\nsteps = 1\nsteps = 2\n", "is not TOML: Cannot overwrite a value"),
    "utf16.toml": (REFUSED_RECIPES["utf16.toml"], "is not UTF-8, at byte 0, in line 1: save it as UTF-8"),
    "latin1.toml": (REFUSED_RECIPES["latin1.toml"], "is not UTF-8, at byte 4, in line 1"),
    "late.toml": (SMALLEST.encode() + b"# caf\xe9", "is not UTF-8, at byte 114, in line 11"),
    "utf16_no_mark.toml": ("a = 1".encode("utf-16-le"), "is not TOML"),
    "binary.toml": (bytes(range(256)), "is not UTF-8, at byte 128"),
    "huge.toml": (b"[loop]\nsteps = " + b"9" * 5000, "is not TOML: an integer beyond 64 bits"),
    "deep.toml": (b"a = " + b"[" * 5000, "is not TOML: nested too deeply"),
    "pointer.toml": (b"version https://git-lfs.github.com/spec/v1\n", "is not TOML"),
    "array.toml": (SMALLEST.replace("[loop]", "[[loop]]").encode(), r"loop: tables are given, \[\[loop\]\]"),
    "empty.toml": (b"", "loop: missing"),
    "caption.toml": (b"data = 'x'", 'data = "x": a table is expected'),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_recipe_is_refused_in_words(tmp_path, name):
    content, told = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=told):
        load_recipe(tmp_path / name)


def test_a_byte_order_mark_and_other_line_ends_are_read(recipe_file):
    plain = load_recipe(recipe_file)
    recipe_file.write_bytes(b"\xef\xbb\xbf" + SMALLEST.replace("\n", "\r\n").encode())
    assert load_recipe(recipe_file) == plain


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("none.toml", "no recipe at"),
        ("", "is a folder"),
        ("x" * 300, "cannot be read: File name too long"),
        ("a\0b", "no recipe at"),
    ],
)
def test_a_path_without_a_file_is_told(tmp_path, path, told):
    with pytest.raises(UserError, match=told):
        load_recipe(tmp_path / path)


def test_a_recipe_may_come_through_a_pipe(recipe_file):
    code = "from pathlib import Path\nfrom pipelines.recipe.load import load_recipe\nprint(load_recipe(Path('/dev/stdin')).loop.steps)"
    run = subprocess.run([sys.executable, "-c", code], input=SMALLEST, text=True, capture_output=True, check=True)
    assert run.stdout == "2\n"


def test_nothing_but_a_users_mistake_comes_of_any_recipe(recipe_file):
    whole = SMALLEST + dump_recipe(load_recipe(recipe_file)).split("[data]")[0].replace("[loop]", "[loop.x]")
    pieces = [
        "=",
        "[",
        "]",
        "{",
        "}",
        '"',
        "'",
        ".",
        "\n",
        "\r",
        "inf",
        "nan",
        "-",
        "true",
        "1e999",
        "9" * 30,
        "2020-01-01",
        "\0",
        "ä",
    ]
    random_ = random.Random(0)
    read = 0
    for _ in range(300):
        data = bytearray((SMALLEST if random_.random() < 0.5 else whole).encode())
        for _ in range(random_.randint(1, 3)):
            at = random_.randrange(len(data))
            data[at : at + random_.randrange(6)] = (
                random_.choice(pieces).encode() if random_.random() < 0.9 else random_.randbytes(2)
            )
        recipe_file.write_bytes(data)
        key = random_.choice(
            ["objective", "loop", "policy.betas", "data.mix.a", "run.notes", "heldout", "rollout.labels"]
        )
        try:
            load_recipe(recipe_file, [f"{key}={random_.choice(pieces)}"] * random_.randrange(2))
            read += 1
        except UserError:
            continue
    assert read < 300


def test_reading_a_recipe_loads_neither_torch_nor_ray():
    code = "import pipelines.recipe.load, sys; assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_wrong_value_in_an_array_is_told_of_that_value_alone(recipe_file):
    with pytest.raises(UserError, match=r"guidance_scales\[0\] = inf: a finite number is expected$"):
        load_recipe(recipe_file, ["heldout.guidance_scales=[inf]"])
