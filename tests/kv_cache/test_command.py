"""The command as a user types it."""

import argparse
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.kv_cache import configs
from tests.kv_cache.configs import written
from tests.kv_cache.test_server import REAL_PAGE, served
from vllm_locust.errors import UsageError
from vllm_locust.kv_cache import command
from vllm_locust.kv_cache.options import size_of

GIB = 1 << 30


def run(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args(arguments)) == 0


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    run(*arguments, "--json")
    return orjson.loads(capsys.readouterr().out)


def test_a_gpu_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(written(tmp_path, configs.LLAMA_3_8B))
    run(path, "--gpu-memory", "80GB", "--input-len", "3500", "--output-len", "500")
    out = capsys.readouterr().out
    for words in (
        "GQA, 8 KV heads of 128",
        "131072 bytes = 2 x 32 layers x 8 KV heads x 128 x 2 bytes",
        "estimated from the config, 8.03 billion parameters",
        "of 4000 tokens, all at full length",
        "500 MiB",
        "What this assumes",
    ):
        assert words in out


def test_a_gpu_in_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(written(tmp_path, configs.LLAMA_3_8B))
    lengths = ("--input-len", "3500", "--output-len", "500")
    found = document(capsys, path, "--gpu-memory", "80GB", "--weights-gb", "16", *lengths)
    left = 0.9 * 80 * GIB - 16e9 - 2 * GIB
    blocks = int(left // (16 * 131072))
    assert found["memory"]["kv_cache_bytes"] == pytest.approx(left)
    assert found["fits"]["num_gpu_blocks"] == blocks
    assert found["fits"]["tokens"] == (blocks - 1) * 16
    low, high = found["fits"]["num_gpu_blocks_range"]
    assert blocks - low == pytest.approx(2 * GIB / (16 * 131072), abs=1)
    assert high - blocks == pytest.approx(GIB / (16 * 131072), abs=1)
    assert found["fits"]["requests"]["max_concurrency"] == pytest.approx((blocks - 1) / 250)
    assert found["fits"]["requests"]["mean_concurrency"] == pytest.approx(blocks / 235, rel=0.01)
    assert [row["tokens"] for row in found["fits"]["table"]] == [1024, 2048, 4000, 4096, 8192]


def test_one_block_is_nobodys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 40 blocks requests get 39: of 8 blocks each four fit, and a fifth would need 40."""
    path = str(written(tmp_path, configs.LLAMA_3_8B))
    lengths = ("--input-len", "1000", "--output-len", "30")
    fits = document(capsys, path, "--num-gpu-blocks", "40", "--block-size", "128", *lengths)["fits"]
    assert (fits["num_gpu_blocks"], fits["tokens"]) == (40, 4992)
    assert (fits["table"][0]["blocks"], fits["table"][0]["max_concurrency"]) == (8, 4.875)
    # 1001 to 1024 tokens take 8 blocks, 1025 to 1030 take 9: 8.2 in the mean.
    assert fits["requests"]["mean_concurrency"] == pytest.approx(39 / 8.2)
    assert fits["requests"]["max_concurrency"] == pytest.approx(39 / 9)
    assert document(capsys, path, "--num-gpu-blocks", "1")["fits"]["tokens"] == 0


def test_each_gpu_has_its_share(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(written(tmp_path, configs.QWEN_2_5_72B))
    found = document(capsys, path, "--gpu-memory", "80GB", "-tp", "4", "--kv-cache-dtype", "fp8")
    assert found["memory"]["weights_bytes"] == pytest.approx(72.7e9 * 2 / 4, rel=0.01)
    assert found["model"]["bytes_per_token"] == 2 * 80 * 2 * 128
    assert found["model"]["formula"] == "2 x 80 layers x 2 KV heads x 128 x 1 byte"


@pytest.mark.parametrize(
    ("quantization", "dtype"),
    [
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}, "fp8"),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}, "fp8"),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_method": "awq", "bits": 4}, "bfloat16"),
    ],
)
def test_a_checkpoint_may_bring_the_type_of_its_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quantization: Any, dtype: str
) -> None:
    path = str(written(tmp_path, {**configs.LLAMA_3_8B, "quantization_config": quantization}))
    assert document(capsys, path)["model"]["kv_cache_dtype"] == dtype
    assert document(capsys, path, "--kv-cache-dtype", "float16")["model"]["kv_cache_dtype"] == "float16"


def test_windows_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(str(written(tmp_path, configs.GPT_OSS_20B)), "--num-gpu-blocks", "10000", "--max-model-len", "8192")
    out = capsys.readouterr().out
    assert "24: 12 keep every token, 12 keep 128 tokens" in out
    assert "24576 bytes behind the first 128 tokens of a sequence" in out
    assert "in sequences of 8192" in out


def test_a_model_that_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(str(written(tmp_path, configs.QWEN_2_5_72B)), "--gpu-memory", "80GB")
    out = capsys.readouterr().out
    assert "= KV cache           none: 65.4" in out
    assert "blocks               0 of 16 tokens" in out


def test_a_server_alone_and_beside_the_calculation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = {"model_type": "llama", "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    path = str(written(tmp_path, {**tiny, "num_key_value_heads": 2, "dtype": "float32"}))
    with served(REAL_PAGE) as url:
        run("--url", url, "--input-len", "200", "--output-len", "56")
        alone = capsys.readouterr().out
        more = ("--dtype", "float32", "--kv-cache-memory-bytes", "1G")
        run(path, "--url", url, *more)
        both = capsys.readouterr().out
        found = document(capsys, path, "--url", url, *more)
    assert "8192 blocks of 128 tokens, auto" in alone
    assert "1048576 tokens, 256.00 requests of 4096 tokens at once" in alone
    assert "4095.50 requests of 256 tokens at once" in alone
    assert "these blocks are 1 GiB on each GPU" in both
    assert "8192 blocks, +0.0 % of the server's" in both
    assert found["comparison"] == {"kv_cache_bytes": GIB, "num_gpu_blocks": 8192, "off": 0.0}
    assert found["fits"]["tokens"] == 8191 * 128


@pytest.mark.parametrize(
    ("arguments", "sentences"),
    [
        ([], ["Name a model (a folder with a config.json), a running server (--url), or both."]),
        (["m", "--output-len", "5"], ["--output-len needs --input-len, the length of the prompts."]),
        (
            ["--url", "http://x", "--gpu-memory", "80G"],
            ["--gpu-memory says how much fits of a model: name one."],
        ),
        (
            ["m", "--gpu-memory", "80G", "--num-gpu-blocks", "4"],
            ["--gpu-memory and --num-gpu-blocks exclude each other: each says how much fits."],
        ),
        (
            [
                "m",
                "--gpu-memory",
                "much",
                "--gpu-memory-utilization",
                "90",
                "-tp",
                "0",
                "--kv-cache-dtype",
                "fp3",
            ],
            [
                "--tensor-parallel-size 0 must be at least 1.",
                "--gpu-memory-utilization 90 must be above 0 and at most 1.",
                "--kv-cache-dtype 'fp3' is not counted here: it is one of auto, bfloat16, float16, fp8, "
                "fp8_e4m3, fp8_e5m2, fp8_inc, nvfp4.",
                "--gpu-memory 'much' is no size, such as 80GB.",
            ],
        ),
    ],
)
def test_what_is_wrong_is_said_all_at_once(arguments: list[str], sentences: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        run(*arguments)
    assert error.value.problems == sentences


def test_gpus_that_cannot_share_a_model(tmp_path: Path) -> None:
    path = str(written(tmp_path, configs.LLAMA_3_8B))
    with pytest.raises(
        UsageError, match=r"--tensor-parallel-size 3 does not go with .*: its 32 attention heads"
    ):
        run(path, "-tp", "3")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("80GB", 80 * GIB),
        ("80G", 80 * GIB),
        ("80GiB", 80 * GIB),
        ("1.5gib", 1.5 * GIB),
        ("2048", 2048),
        ("4K", 4096),
    ],
)
def test_sizes(text: str, expected: float) -> None:
    assert size_of(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "-1G", "0", "inf", "nan", "8 0 G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError):
        size_of(text)
