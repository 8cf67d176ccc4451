"""The tables of the README's "Measured on an H200", made from results/gpu.json:

    python readme_tables.py            rewrites them in ../README.md
    python readme_tables.py --check    exit 1 where they differ

They lie between the lines "<!-- gpu.json -->" and "<!-- end -->".
"""
import json
import os
import sys

from report import LONG, MIXED, Findings, table

HERE = os.path.dirname(os.path.abspath(__file__))
README = os.path.join(HERE, "..", "README.md")
BEGIN, END = "<!-- gpu.json -->\n", "<!-- end -->\n"
PEERS = (
    ("compiled", "one of r 16 under torch.compile by layer, chunked loss"),
    ("shared_batch_compiled", "the jobs in one batch, a loop over adapters, under torch.compile"),
    ("compiled_in_turn", "the jobs themselves, each alone under torch.compile, one after the other"),
    ("peft_bf16", "PEFT, one of r 16, bf16 adapter"),
    ("shared_batch", "the jobs in one batch, eager"),
    ("peft", "PEFT as it comes, one of r 16, fp32 adapter"),
)


def tables(report):
    f = Findings(report["stages"])
    llama = f.data("steps-llama3-8b")
    of = report["stages"]["steps-llama3-8b"]
    parts = [f"{report['device']}, driver {report['driver']}, {of['date'][:10]}, commit {of['commit']}. Limit by GEMMs alone in the same run: "
             f"{llama['limit_tokens_per_second']:,.0f} tok/s.\n"]
    rows = [["Llama-3-8B", r] for r in llama["rows"]] + [["Qwen3-8B", r] for r in f.data("steps-qwen3-8b").get("rows", [])]
    parts.append(table(["shapes of", "step", "tok/s", "ms", "of its limit"],
                       [[model, r["config"], f"{r['tokens_per_second']:,.0f}", f"{r['step_ms']:.1f}", f"{r['percent_of_limit']:.0f}%"] for model, r in rows]))
    profile = f.data("profile")
    whole = sum(p["milliseconds"] for p in profile.values())
    gemms = sum(p["milliseconds"] for name, p in profile.items() if name.startswith("gemm"))
    others = sorted(((p["milliseconds"] / whole, name) for name, p in profile.items() if not name.startswith("gemm")), reverse=True)
    parts.append(f"\nOf a step of 8 mixed jobs, 15,360 tokens, the GEMMs (with adapters, activation, rotation) take {100 * gemms / whole:.0f}%; "
                 + "; ".join(f"{name} {100 * share:.1f}%" for share, name in others if share > 0.002) + ".\n")
    body = []
    for way, what in PEERS:
        cells = []
        for config, key in ((MIXED, "15360"), (LONG, "8192")):
            peer = f.peer(key, [way])
            if peer is None:
                cells += ["not run", ""]
                continue
            at = "" if peer["tokens"] == peer["asked_tokens"] else f" at {peer['tokens']:,} tokens (out of memory above)"
            cells += [f"{peer['tokens_per_second']:,.0f}{at}", f"{f.step(config) / peer['tokens_per_second']:.2f}x"]
        body.append([f"{way}: {what}", *cells])
    parts.append(table(["peer, right after the steps", "15,360 tokens (8 mixed jobs)", "ours is", "8,192 tokens (4 jobs r 16, segments of 2,048)", "ours is"], body))
    return "\n".join(parts) + "\n"


def main():
    with open(os.path.join(HERE, "results", "gpu.json")) as file:
        report = json.load(file)
    with open(README) as file:
        text = file.read()
    begin = text.index(BEGIN) + len(BEGIN)
    fresh = text[:begin] + tables(report) + text[text.index(END, begin):]
    if "--check" in sys.argv[1:]:
        if fresh != text:
            sys.exit("README.md is not what results/gpu.json gives: python readme_tables.py")
        return
    with open(README + ".part", "w") as file:
        file.write(fresh)
    os.replace(README + ".part", README)


if __name__ == "__main__":
    main()
