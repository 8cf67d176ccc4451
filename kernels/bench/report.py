"""Merges the stages of gpu.sh into gpu.json, judges what must be shown, and writes gpu.md.

    python report.py --base results/gpu.json --work DIR --out DIR
    python report.py --base results/gpu.json --work DIR --sustained     the GEMM limit in TFLOP/s, 0 when unknown

A stage in --work is NAME.meta (date, commit, device, driver, status, seconds) with NAME.json or NAME.log. A stage that left
nothing this time keeps the figures of the base, with a note that the last try failed; so does a sanitizer that was cut short
where the base has a whole run.
"""
import argparse
import glob
import json
import os
import re

GIB = 1 << 30
LONG, MIXED, FULL = "4 jobs r16, 8192 in segments of 2048", "8 mixed jobs, 15360 in segments of 512", "8 jobs r16, 16384 in segments of 512"
SMALL, SIXTEEN, ONE = "one small job, 512", "16 jobs r16, 8192 in segments of 512", "1 job r16, 8192 in segments of 512"
PEERS = ("compiled", "compiled_in_turn", "peft_bf16", "peft", "shared_batch", "shared_batch_compiled")
BASE = "1 job r2 on q_proj, 8192 in segments of 512"


def read(path, fallback=None):
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return fallback


def from_log(name, text):
    """The findings of stages that print rather than write."""
    found = re.findall(r"(\d+) passed, (\d+) failed(?:, (\d+) skipped)?", text)
    data = dict(zip(("passed", "failed", "skipped"), (int(n or 0) for n in found[-1]))) if found else {}
    if name == "test":
        data["failures"] = re.findall(r"^FAIL (.*)$", text, re.M)
        if not found:  # it crashed or ran out of time: that is a failure too
            data["passed"] = len(re.findall(r"^ok ", text, re.M))
            data["failed"] = len(data["failures"]) + 1
        return data
    if name == "isolation":
        return {**data, "scenarios": re.findall(r"^ *\d+/\d+ (.*?)  +\w+ (equal|.*) \(", text, re.M), "hashes": re.findall(r"SHA-256.*: (\w+)", text)} if found else None
    if name == "demo":
        hashes = dict(re.findall(r"^  (in the group|alone) +(\w{64})$", text, re.M))
        accuracy = re.findall(r"^(\S+) +\d+ +\d+ +\d+ +\S+ → \S+ +(\d+)% → (\d+)%", text, re.M)
        return {"hashes": hashes, "accuracy": [[job, int(before), int(after)] for job, before, after in accuracy]} if hashes else None
    if name.startswith("sanitize"):
        summary = re.findall(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard", text)
        tests = re.findall(r"^ok   (\S+)", text, re.M)
        if not summary and not tests:
            return None
        # Without a summary its time was over: what it had reported until then.
        errors = sum(int(a or b) for a, b in summary) if summary else len(re.findall(r"^=+ (?:Error|Warning|Invalid)", text, re.M))
        return {**data, "errors": errors, "finished": len(tests), "tests": tests, "cut_short": not summary, "races": races(text)}
    return None


def races(text):
    """Kernel and lines of each pair of accesses that racecheck reports, with how often."""
    found, access = {}, r"(Read|Write) access at (.*?)\+0x[0-9a-f]+ in (\S+:\d+)"
    for report in re.split(r"Race reported between ", text)[1:]:
        first, *others = re.findall(access, report.split("\n========= \n")[0])
        kernel = re.search(r"(\w+)(<[^(]*(?:\([^)]*\)[^(]*)*>)?\(", first[1].replace("<unnamed>", "unnamed"))
        places = sorted({f"{kind.lower()} {place}" for kind, _, place in others})
        key = f"{kernel.group(1) if kernel else first[1]}: {first[0].lower()} {first[2]} and {', '.join(places)}"
        found[key] = found.get(key, 0) + 1
    return found


def merge(base, work):
    stages = dict((base or {}).get("stages", {}))
    for path in sorted(glob.glob(os.path.join(work, "*.meta"))):
        name = os.path.basename(path)[: -len(".meta")]
        meta = read(path)
        data = read(path[: -len(".meta")] + ".json")
        if data is None and os.path.exists(path[: -len(".meta")] + ".log"):
            with open(path[: -len(".meta")] + ".log", errors="replace") as file:
                data = from_log(name, file.read())
        if meta is None:
            continue
        complete = ((stages.get(name) or {}).get("data") or {"cut_short": True}).get("cut_short") is not True
        if data is not None and data.get("cut_short") and complete:
            stages[name]["last_try"] = {**meta, "data": data}
        elif data is not None or name == "build":
            stages[name] = {**meta, "data": data}
        elif name in stages:
            stages[name]["last_try"] = meta
        else:
            stages[name] = {**meta, "data": None}
    return stages


def sustained(stages):
    rows = ((stages.get("gemm") or {}).get("data") or {}).get("rows", [])
    # Without strips; the better of ours and the library's, so that the limit is the stricter.
    return max((r["tflops"] for r in rows if "sustained" in r and "columns" not in r["sustained"]), default=0.0)


class Findings:
    """Values by name; None where a stage has not run."""

    def __init__(self, stages):
        self.stages = stages

    def data(self, stage):
        return (self.stages.get(stage) or {}).get("data") or {}

    def step(self, config, key="tokens_per_second", model="llama3-8b"):
        for row in self.data(f"steps-{model}").get("rows", []):
            if row["config"] == config:
                return row.get(key)
        return None

    def peer(self, config, ways=()):
        """The fastest of the peers (of these ways, or all) on a configuration, with what it ran on."""
        rows = [r for r in self.data("peers").get("rows", []) if r["config"] == config and "tokens_per_second" in r]
        rows = [r for r in rows if not ways or r["peer"] in ways]
        return max(rows, key=lambda r: r["tokens_per_second"], default=None)

    def ratio_to_peer(self, config, key, *ways):
        ours, peer = self.step(config), self.peer(key, ways)
        if ours is None or peer is None:
            return None, ""
        at = "" if peer["tokens"] == peer["asked_tokens"] else f" at {peer['tokens']} tokens, {peer['asked_tokens']} run out of memory"
        # A ratio to the best of fewer peers would flatter.
        lacking = [w for w in ways or PEERS if self.peer(key, [w]) is None]
        lacking = f"; no figure of {', '.join(lacking)}" if lacking else ""
        return ours / peer["tokens_per_second"], f"{peer['peer']}: {peer['tokens_per_second']:,.0f} tok/s{at}{lacking}"


def ratio(a, b):
    return None if a is None or not b else a / b


def judge(f):
    lines = []

    def line(number, what, value, target, unit="", stretch=None, least=True, detail=""):
        """least: value must be at least the target, otherwise at most."""
        good = lambda bound: value >= bound if least else value <= bound
        verdict = "not measured" if value is None else "missed" if not good(target) else "held"
        if verdict == "held" and stretch is not None and good(stretch):
            verdict = "stretch held"
        lines.append({"line": number, "what": what, "value": value, "unit": unit, "target": target, "stretch": stretch,
                      "at_least": least, "verdict": verdict, "detail": detail})

    tests = f.data("test")
    line("1", "CUDA op and bit tests that fail", tests.get("failed"), 0, least=False, detail=f"{tests['passed']} passed" if tests else "")
    for tool in ("memcheck", "racecheck"):
        found = f.data(f"sanitize-{tool}")
        since = f.stages.get(f"sanitize-{tool}", {}).get("last_try", {})
        later = since.get("data") or {}
        line("1", f"compute-sanitizer {tool}, findings", found.get("errors"), 0, least=False,
             detail=f"in {found['finished']} tests" + (", then its time was over" if found.get("cut_short") else "") + "".join(f"; {n} x {race}" for race, n in found.get("races", {}).items())
             + (f". Later, at {since['commit']}, {later['errors']} in the first {later['finished']}" if later else "") if found else "")

    bits = f.data("bits")
    cases = [c for job in bits.get("jobs", []) for c in job["companies"]]
    different = [c for c in cases if not c["identical"]]
    line("2", "gradient and weights of a job that differ, of all companies, splits, moves and processes",
         len(different) if cases else None, 0, least=False,
         detail=f"{len(cases)} cases" + "".join(f"; {c['company']}: {c.get('difference')}" for c in different[:3]))
    line("2", "recompute policies that change a bit", None if not f.data("memory") else int(not f.data("memory")["policies_give_equal_bits"]), 0, least=False)

    percent = lambda config: f"{f.step(config, 'percent_of_limit'):.1f}% of the GEMM limit" if f.step(config, "percent_of_limit") else ""
    line("3", "Llama-3-8B, 8 mixed jobs, 15,360 tokens", f.step(MIXED), 17500, "tok/s", 19500, detail=percent(MIXED))
    line("3", "Llama-3-8B, 4 jobs r 16, 8,192 tokens in segments of 2,048", f.step(LONG), 16500, "tok/s", 18500, detail=percent(LONG))
    for config, key in ((MIXED, "15360"), (LONG, "8192")):
        value, detail = f.ratio_to_peer(config, key)
        line("3", f"against the best peer, {int(key):,} tokens", value, 1.25, "x", detail=detail)
        for what, way, target in (("PEFT eager as it comes", "peft", 1.9), ("PEFT eager with bf16 adapters", "peft_bf16", 1.9),
                                  ("the same jobs in turn under torch.compile", "compiled_in_turn", 1.25),
                                  ("the same jobs in one batch under torch.compile", "shared_batch_compiled", 1.25),
                                  ("the same jobs in one batch, eager", "shared_batch", 1.25)):
            value, detail = f.ratio_to_peer(config, key, way)
            line("3", f"against {what}, {int(key):,} tokens", value, target, "x", detail=detail)

    line("4", "one small job alone (1 x 512, r 16)", f.step(SMALL), 11000, "tok/s", detail=percent(SMALL))
    line("4", "16 such jobs together", f.step(SIXTEEN), 16000, "tok/s", detail=percent(SIXTEEN))

    cost = lambda a, b: None if ratio(f.step(a), f.step(b)) is None else 100 * (1 - f.step(a) / f.step(b))
    line("5", "16 adapters against 1 at equal tokens, slower by", cost(SIXTEEN, ONE), 4, "%", least=False)
    line("5", "16 adapters against next to none (r 2 on q_proj: all of dX), slower by", cost(SIXTEEN, BASE), 10, "%", least=False)

    line("6", "Qwen3-8B per FLOP against Llama-3-8B, 15,360 tokens", ratio(f.step(MIXED, "tflops", "qwen3-8b"), f.step(MIXED, "tflops")), 0.95, "x")
    in_gib = lambda config: None if not f.step(config, "device_bytes") else f.step(config, "device_bytes") / GIB
    line("6", "device memory of a 16,384-token step", in_gib(FULL), 85, "GiB", least=False, detail=f"recompute: {f.step(FULL, 'recompute') or '?'}")
    line("6", "device memory of an 8,192-token step", in_gib(LONG), 52, "GiB", least=False, detail=f"recompute: {f.step(LONG, 'recompute') or '?'}")

    memory = f.data("memory")
    measured = [r for r in memory.get("rows", []) if "error" in r]
    line("7", "memory estimate off by at most, of all that is in use", 100 * memory["worst_error"] if measured else None, 5, "%", least=False,
         detail=f"{len(measured)} configurations; of step and adapters alone {100 * memory['worst_error_of_step_and_adapters']:.1f}%" if measured else "")
    refusal = memory.get("refusal", {})
    line("7", "a group that does not fit is refused and the model stays usable", None if not refusal.get("tested") else int(refusal["refused"] and refusal["model_usable"]), 1,
         detail=refusal.get("text", refusal.get("reason", "")))

    curve = f.data("curve")
    line("8a", "200-step loss curve, worst difference to the CPU's", curve.get("worst_difference", None) if curve else None, 1e-2, least=False,
         detail=f"loss {curve['first_loss']:.3f} to {curve['last_loss']:.3f}" if curve else "")
    demo, isolation = f.data("demo"), f.data("isolation")
    line("8a", "demo on the GPU: the adapter in the group differs from the one alone", int(len(set(demo["hashes"].values())) > 1) if demo else None, 0,
         least=False, detail="; ".join(f"{job} {before}% to {after}% exact" for job, before, after in demo["accuracy"]) if demo else "")
    line("8a", "isolation of the service on the GPU: scenarios with another hash", isolation.get("failed"), 0, least=False,
         detail=f"{isolation['passed']} equal" if isolation else "")
    peft = f.data("peft")
    loss, gradient = peft.get("loss_error", {}), peft.get("gradient_error", {})
    line("8b", "0.5B shape: loss against PEFT in fp32", loss.get("tlora"), 1e-2, least=False,
         detail=f"PEFT in bf16: {loss['peft_bf16']:.1e}; between the two {loss['tlora_against_peft_bf16']:.1e}" if loss else "")
    chats = peft.get("chats", {})
    if chats:
        of_loss, of_all = chats["loss_error"], {k: v["all"] for k, v in chats["gradient_error"].items()}
        line("8b", "0.5B shape, chats: loss against PEFT in fp32", of_loss["tlora"], 1e-2, least=False,
             detail=f"PEFT in bf16: {of_loss['peft_bf16']:.1e}; between the two {of_loss['tlora_against_peft_bf16']:.1e}")
        line("8b", f"0.5B shape, chats of {chats['tokens']:,} tokens: gradient against PEFT in fp32", of_all["tlora"], 1e-2, least=False,
             detail=f"PEFT in bf16: {of_all['peft_bf16']:.1e}; between the two {of_all['tlora_against_peft_bf16']:.1e}")
    line("8b", f"0.5B shape, {peft.get('tokens', 0):,} tokens drawn at random: gradient against PEFT in fp32", gradient.get("tlora", {}).get("all"), 1e-2, least=False,
         detail=f"PEFT in bf16: {gradient['peft_bf16']['all']:.1e}; between the two {gradient['tlora_against_peft_bf16']['all']:.1e}" if gradient else "")
    # Rounding to bf16 alone takes a random model of 24 layers further than 1e-2 from the truth: what we add to that is ours.
    own = {k: gradient.get(k, {}).get("all") for k in ("tlora", "peft_bf16")}
    line("8b", "0.5B shape: gradient's error beyond that of PEFT in bf16 (below 0: ours is the smaller)",
         own["tlora"] - own["peft_bf16"] if gradient else None, 1e-2, least=False)

    latency = f.data("latency")
    line("9", "a job joins: from add to the end of its first step, without the step", latency.get("join_ms"), 50, "ms", least=False,
         detail=f"add alone {latency['add_ms']:.1f} ms; the worst {max(latency['join_all_ms']):.1f}; the very first, workspace growth included, "
                f"{latency['first_join_ms']:.1f}" if latency else "")
    line("9", "swap out and in (offload, restore)", latency.get("swap_ms"), 60, "ms", least=False,
         detail=f"the first {latency['swap_all_ms'][0]:.1f}; with steps between, {latency['swap_beside_steps_ms']:.1f}" if latency else "")
    line("9", "export, remove, add and import of all states", latency.get("export_import_ms"), 60, "ms", least=False)
    return lines


def number(value):
    if value is None:
        return ""
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(head, rows):
    cells = [[str(c).replace("|", "\\|") for c in row] for row in rows]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in cells)])


def markdown(report):
    f = Findings(report["stages"])
    parts = [f"# CUDA backend: what was measured\n\n{report['device']}, driver {report['driver']}, {report['date']}, commit {report['commit']}. "
             "Written by `bench/report.py` from `gpu.json`; stages that did not run that day have their own date below.\n"]
    judged = []
    for l in report["must_show"]:
        bound = f"{'≥' if l['at_least'] else '≤'} {number(l['target'])}" + (f" ({number(l['stretch'])})" if l["stretch"] else "")
        judged.append([l["line"], l["what"], "" if l["value"] is None else f"{number(l['value'])} {l['unit']}".strip(), bound, l["verdict"], l["detail"]])
    parts.append(table(["line", "what", "value", "target (stretch)", "verdict", "detail"], judged))
    for model in ("llama3-8b", "qwen3-8b"):
        rows = f.data(f"steps-{model}").get("rows", [])
        if rows:
            limit = f.data(f"steps-{model}").get("limit_tokens_per_second")
            parts.append(f"\n## Steps, {model}" + (f" (limit by GEMMs alone: {limit:,.0f} tok/s)" if limit else "") + "\n")
            parts.append(table(["configuration", "tok/s", "best", "step ms", "AdamW ms", "% of limit", "device GiB"],
                               [[r["config"], number(r["tokens_per_second"]), number(r["tokens_per_second_best"]), f"{r['step_ms']:.1f}",
                                 f"{r['optimizer_ms']:.2f}", f"{r['percent_of_limit']:.1f}" if "percent_of_limit" in r else "",
                                 f"{r['device_bytes'] / GIB:.1f}" + ("" if r["alone_on_device"] else " (with those it takes turns with)")] for r in rows]))
    rows = f.data("peers").get("rows", [])
    if rows:
        parts.append(f"\n## Peers ({f.data('peers')['shape']}, PyTorch {f.data('peers')['torch']})\n")
        parts.append(table(["peer", "tokens asked", "tok/s", "at tokens", "peak GiB", "note"],
                           [[r["peer"], r["asked_tokens"], number(r.get("tokens_per_second")), r.get("tokens", ""),
                             f"{r['peak_bytes'] / GIB:.1f}" if "peak_bytes" in r else "",
                             r.get("error") or ("out of memory at " + ", ".join(map(str, r["out_of_memory_at"])) if r.get("out_of_memory_at") else "")] for r in rows]))
    rows = f.data("memory").get("rows", [])
    if rows:
        parts.append("\n## Memory estimates\n")
        parts.append(table(["policy", "tokens", "segment", "jobs", "predicted GiB", "measured GiB", "off by", "of step and adapters"],
                           [[r["policy"], r["tokens"], r["segment"], r["jobs"],
                             *([f"{r['predicted_bytes'] / GIB:.2f}", f"{r['measured_bytes'] / GIB:.2f}", f"{100 * r['error']:.2f}%",
                                f"{100 * r['error_of_step_and_adapters']:.2f}%"] if "error" in r else ["", "does not fit", "", ""])] for r in rows]))
    for what, peft in (("random tokens", f.data("peft")), ("chats", f.data("peft").get("chats", {}))):
        errors = peft.get("gradient_error")
        if not errors:
            continue
        parts.append(f"\n## Gradients against PEFT in fp32, {what} (relative Frobenius error, {peft['tokens']:,} tokens)\n")
        keys = [k for k in errors["tlora"] if " " not in k]
        parts.append(table(["module", "tLoRA", "PEFT bf16", "between the two"],
                           [[k, *(f"{errors[w][k]:.2e}" for w in ("tlora", "peft_bf16", "tlora_against_peft_bf16"))] for k in keys]))
    ops = f.data("ops")
    if ops:
        c = ops["ceilings"]
        parts.append(f"\n## Ops ({c['copy_gbps']:,.0f} GB/s copy, {c['matrix_tflops']:,.0f} TFLOP/s by {c['matrix']}, in the same run)\n")
        parts.append(table(["op", "detail", "tokens", "segment", "adapters", "µs", "GB/s", "TFLOP/s", "% of its ceiling"],
                           [[r["op"], r["detail"], r["tokens"] or "", r["segment"] or "", r["adapters"],
                             *([r["error"], "", "", ""] if "error" in r else
                               [f"{r['us']:,.1f}", f"{r['gbps']:,.0f}", f"{r['tflops']:,.0f}" if r["flops"] else "", f"{r['percent']:.0f} ({r['bound']})"])]
                            for r in ops["rows"]]))
    profile = f.data("profile")
    if profile:
        whole = sum(p["milliseconds"] for p in profile.values())
        parts.append("\n## Share of each op in a step of 8 mixed jobs, 15,360 tokens (events around every op)\n")
        parts.append(table(["op", "share", "µs a call"],
                           [[name, f"{100 * p['milliseconds'] / whole:.1f}%", f"{1000 * p['milliseconds'] / p['calls']:,.1f}"]
                            for name, p in sorted(profile.items(), key=lambda item: -item[1]["milliseconds"])]))
    parts.append("\n## Stages\n")
    parts.append(table(["stage", "date", "commit", "device", "seconds", "status"],
                       [[name, s["date"], s["commit"], s["device"], s["seconds"],
                         f"{s['status']}" + (f" (last try {s['last_try']['date']}: {s['last_try']['status']})" if "last_try" in s else "")]
                        for name, s in sorted(report["stages"].items())]))
    return "\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--out")
    parser.add_argument("--sustained", action="store_true")
    args = parser.parse_args()
    stages = merge(read(args.base), args.work)
    if args.sustained:
        print(f"{sustained(stages):.1f}")
        return
    newest = max(stages.values(), key=lambda s: s["date"], default={"date": "", "commit": "", "device": "", "driver": ""})
    report = {key: newest[key] for key in ("date", "commit", "device", "driver")}
    report["must_show"] = judge(Findings(stages))
    report["stages"] = stages
    for name, text in (("gpu.json", json.dumps(report, indent=1) + "\n"), ("gpu.md", markdown(report))):
        part = os.path.join(args.out, name + ".part")
        with open(part, "w") as file:
            file.write(text)
        os.replace(part, os.path.join(args.out, name))


if __name__ == "__main__":
    main()
