/** What the pages of the bench share: text made safe, style, frame. */

export function escape(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

const style = `
:root{color-scheme:light}
body{font:14px/1.45 system-ui,sans-serif;color:#15181c;background:#fff;max-width:1120px;margin:28px auto;padding:0 20px}
h1{font-size:26px;line-height:1.2;margin:0 0 6px}h2{font-size:19px;margin:34px 0 6px;padding-top:12px;border-top:2px solid #15181c}
h3{font-size:14px;margin:18px 0 4px}p{margin:4px 0 8px;max-width:86ch}.dim{color:#5b636d}
dl.facts{display:grid;grid-template-columns:max-content 1fr;gap:1px 14px;margin:10px 0 0;font-size:13px}dt{color:#5b636d}dd{margin:0}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;margin:4px 0 12px}
th,td{padding:3px 12px 3px 0;text-align:right;vertical-align:top;border-bottom:1px solid #e2e5e9}
thead th{vertical-align:bottom;border-bottom:1.5px solid #15181c;font-weight:600}tbody th{font-weight:400}
th:first-child,.text{text-align:left}td.text{max-width:46ch}
small{display:block;font-size:11px;line-height:1.25;color:#5b636d;white-space:nowrap}td.text small,td.text{white-space:normal}
td:not(.text),.held,.missed,.none{white-space:nowrap}.held{color:#0a6b2d;font-weight:600}.missed{color:#b3261e;font-weight:600}.none{color:#5b636d}
.bar{display:inline-block;width:132px;height:9px;background:linear-gradient(#15181c,#15181c) 50% 0/1px 100% no-repeat,#eef0f3;position:relative}
.bar i{position:absolute;top:0;height:100%}.bar i.better{background:#0a6b2d}.bar i.worse{background:#b3261e}.bar i.unsure{background:#9aa3ad}
figure{margin:10px 0;break-inside:avoid}figcaption{font-size:13px;font-weight:600}svg{width:100%;max-width:660px;height:auto}
svg text{font:12px system-ui,sans-serif;fill:#15181c}.grid{stroke:#e2e5e9}.axis{stroke:#15181c}.line{fill:none;stroke-width:2}
.warn{border-left:4px solid #b3261e;padding-left:10px}footer{margin-top:34px;font-size:12px;color:#5b636d}
@media print{@page{size:A4;margin:12mm}body{font-size:10.5px;max-width:none;margin:0;padding:0}table{font-size:9.5px}small{font-size:8.5px}
h1{font-size:20px}h2{font-size:15px;margin-top:18px}h3,figcaption{font-size:11px;break-after:avoid}th,td{padding:1.5px 8px 1.5px 0}tr,figure{break-inside:avoid}
.scroll{overflow:visible}thead{display:table-header-group}svg{max-width:480px}}
`.trim();

export function page(title: string, body: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${escape(title)}</title>
<style>
${style}
</style>
</head>
<body>
${body}
</body>
</html>
`;
}

export function facts(pairs: readonly (readonly [string, string])[]): string {
  const items = pairs.map(([name, value]) => `<dt>${escape(name)}</dt><dd>${escape(value)}</dd>`);
  return `<dl class="facts">\n${items.join("\n")}\n</dl>`;
}

/** Cells are HTML; the first row is the head. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `<tr>${cells.join("")}</tr>`;
  return `<div class="scroll"><table>
<thead>${line(head)}</thead>
<tbody>
${rows.map(line).join("\n")}
</tbody>
</table></div>`;
}
