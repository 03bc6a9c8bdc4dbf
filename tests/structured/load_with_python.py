#!/usr/bin/env python3
"""Loads pruned models with Transformers and compares what they compute with this project's own forward pass.

Not part of the default test suite. Needs: pip install torch transformers safetensors numpy.

    load_with_python.py <quant> <outputs_probe> <folder>            # golden models of every family, pruned here
    load_with_python.py <quant> <outputs_probe> --model <pruned>    # one model that `quant run` has made

(cmake --build ... --target quant outputs_probe)

For each model it checks that
  1. Transformers loads it with no missing, unexpected or newly initialised tensor and with config.json as it is,
  2. each logit of fixed token sequences (of BERT: each element of the last hidden states) is that of this project's
     forward pass, both in float32,
  3. the mean log-likelihood of the sequences is that of `quant eval`.
Exit status 0 if all holds.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import AutoModel, AutoModelForCausalLM, Gemma3ForConditionalGeneration

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "model"))

# Cuts by the name of a golden model; heads where config.json can say how wide they are.
CASES = {
    "llama": ["heads: 0.5, ffn: 0.25, layers: 1", "heads: 0.5, head_unit: group, hidden: 0.25",
              "heads: 0.5, ffn: 0.25, compensate: true, add_bias: true"],
    "llama_tied_biases": ["heads: 0.5, ffn: 0.25, layers: 1, compensate: true", "hidden: 0.25"],
    "llama_mqa_head_dim": ["heads: 0.25, ffn: 0.25"],
    "mistral": ["heads: 0.5, ffn: 0.25, layers: 1, hidden: 0.25"],
    "qwen2": ["heads: 0.5, ffn: 0.25, hidden: 0.25"],
    "qwen2_window": ["layers: 1, heads: 0.5"],
    "qwen3": ["heads: 0.5, head_unit: group, ffn: 0.25, hidden: 0.25, layers: 1"],
    "gemma2": ["heads: 0.5, ffn: 0.25, layers: 1"],
    "gemma3": ["heads: 0.5, ffn: 0.25", "layers: 1"],
    "gemma3_text": ["heads: 0.5, ffn: 0.25, layers: 1"],
    "phi3": ["heads: 0.5, ffn: 0.25, hidden: 0.25, layers: 1"],
    "olmo2": ["heads: 0.5, ffn: 0.25, hidden: 0.25, layers: 1"],
    "opt": ["ffn: 0.25, layers: 1, compensate: true"],
    "gpt2": ["ffn: 0.25, layers: 1, compensate: true"],
    "gpt_neox": ["ffn: 0.25, layers: 1"],
    "bert": ["ffn: 0.25, layers: 1", "ffn: 0.25, compensate: true"],
    "stablelm": ["ffn: 0.25, layers: 1"],
    "mixtral": ["experts: 1, heads: 0.5, ffn: 0.25, importance: activation", "layers: 1, hidden: 0.25"],
    "mixtral_fused": ["experts: 1, ffn: 0.25, importance: activation, compensate: true"],
    "qwen2_moe": ["experts: 0.25, ffn: 0.25, heads: 0.5, layers: 1"],
    "qwen2_moe_window": ["layers: 1"],
    "qwen3_moe_fused": ["experts: 0.25, ffn: 0.25, hidden: 0.25"],
}
CLASSES = {"bert": AutoModel, "gemma3": Gemma3ForConditionalGeneration}
SEQUENCES, LENGTH = 8, 24
# Of the largest logit; of the mean log-likelihood in nats.
LOGITS, NATS = 1e-5, 2e-6


def golden_model(folder: pathlib.Path, name: str) -> int:
    """Writes the golden model as a checkpoint; returns the size of its vocabulary."""
    from make_golden import GOLDEN, fill

    with safe_open(GOLDEN / f"{name}.safetensors", "np") as file:
        metadata = file.metadata()
    folder.mkdir(parents=True)
    tensors = {key: fill(key, shape) for key, shape in json.loads(metadata["tensors"]).items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads(metadata["config"])
    config["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config))
    return config.get("vocab_size", 64)


def run(*command) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def outputs_of(loaded, row: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        out = loaded(torch.from_numpy(row.astype(np.int64))[None])
    return (out.logits if hasattr(out, "logits") else out.last_hidden_state)[0].numpy()


def mean_loss(logits: np.ndarray, ids: np.ndarray) -> float:
    values, targets = torch.from_numpy(logits[:, :-1]).double().flatten(0, 1), torch.from_numpy(ids[:, 1:]).flatten()
    return torch.nn.functional.cross_entropy(values, targets.long()).item()


def check(tools, model: pathlib.Path, ids: np.ndarray, work: pathlib.Path) -> list[str]:
    quant, probe = tools
    kind = json.loads((model / "config.json").read_text())["model_type"]
    arguments = {} if kind in ("bert", "gemma3") else {"experts_implementation": "eager"}
    loaded, info = CLASSES.get(kind, AutoModelForCausalLM).from_pretrained(
        model, output_loading_info=True, dtype=torch.float32, attn_implementation="eager", **arguments)
    problems = [f"{key}: {sorted(map(str, info[key]))[:5]}"
                for key in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs") if info.get(key)]
    loaded.eval()
    file, values = work / "ids.npy", work / "outputs.bin"
    np.save(file, ids.astype(np.int32))
    expected = np.stack([outputs_of(loaded, row) for row in ids])
    run(probe, model, file, ids.shape[1], values)
    found = np.fromfile(values, np.float32).reshape(expected.shape)
    scale, difference = float(np.abs(expected).max()), float(np.abs(expected - found).max())
    what = "states" if kind == "bert" else "logits"
    text = f"{model.name}: largest difference of {expected.size} {what} {difference:.2e}, largest of them {scale:.2f}"
    if not difference <= LOGITS * scale:
        problems.append(f"{what} differ by {difference}, the largest is {scale}")
    if kind == "bert":
        print(text)
        return problems
    own = json.loads(run(quant, "eval", model, "--text", file, "--seq-len", ids.shape[1], "--product", "f32", "--json"))
    theirs, ours = mean_loss(expected, ids), own["perplexity"]["model"]["nats_per_token"]["mean"]
    print(f"{text}; {theirs:.7f} nats per token, quant eval {ours:.7f}")
    if not abs(theirs - ours) <= NATS:
        problems.append(f"{theirs} nats per token in Transformers, {ours} here")
    return problems


def check_families(tools, folder: pathlib.Path) -> list[str]:
    problems = []
    for name, recipes in CASES.items():
        vocabulary = golden_model(folder / name, name)
        ids = np.random.default_rng(1).integers(0, vocabulary, (SEQUENCES, LENGTH))
        np.save(folder / "calibration.npy", np.random.default_rng(2).integers(0, vocabulary, (16, LENGTH)).astype(np.int32))
        for number, fields in enumerate(recipes):
            recipe = folder / f"{name}_{number}.yaml"
            recipe.write_text(f"s_stage:\n  s_modifiers:\n    StructuredPruningModifier: {{{fields}, ffn_divisor: 4}}\n")
            pruned = folder / f"{name}_{number}"
            try:
                run(tools[0], "run", recipe, "--model", folder / name, "--output", pruned, "--calibration",
                    folder / "calibration.npy", "--seq-len", LENGTH, "--quiet")
                problems += [f"{pruned.name} ({fields}): {one}" for one in check(tools, pruned, ids, folder)]
            except Exception as failure:  # the others are checked all the same
                problems.append(f"{pruned.name} ({fields}): {failure}")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("quant")
    parser.add_argument("probe")
    parser.add_argument("folder", nargs="?", type=pathlib.Path, help="a new folder for what is made here")
    parser.add_argument("--model", type=pathlib.Path)
    options = parser.parse_args()
    if options.model is not None:
        vocabulary = json.loads((options.model / "config.json").read_text())["vocab_size"]
        ids = np.random.default_rng(1).integers(0, vocabulary, (SEQUENCES, 64))
        work = options.folder or pathlib.Path(".")
        work.mkdir(parents=True, exist_ok=True)
        problems = check((options.quant, options.probe), options.model, ids, work)
    else:
        problems = check_families((options.quant, options.probe), options.folder)
    for problem in problems:
        print("PROBLEM", problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
