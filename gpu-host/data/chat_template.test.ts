import assert from "node:assert/strict";
import { ModelError } from "../models/errors.ts";
import { ChatTemplate, TemplateRefusal } from "./chat_template.ts";

Deno.test("break and continue are refused: the renderer loses text at them", () => {
  for (const word of ["break", "continue"]) {
    const source = `{% for m in messages %}x{% if m.skip %}{% ${word} %}{% endif %}{{ m.content }}{% endfor %}`;
    assert.throws(() => new ChatTemplate(source), (error: ModelError) => {
      assert.equal(error.code, "unsupported_chat_template");
      assert.match(error.message, new RegExp(`\\{% ${word} %\\}`));
      return true;
    });
  }
});

Deno.test("a template that cannot be parsed is refused", () => {
  for (const source of ["{% for %}", "{{ x", "{% if a %}", "{% generation %}x"]) {
    assert.throws(() => new ChatTemplate(source), ModelError, source);
  }
});

Deno.test("what a template refuses says why", () => {
  const template = new ChatTemplate("{{ raise_exception('Only user and assistant roles!') }}");
  assert.throws(() => template.render({ messages: [] }), (error: Error) => {
    assert.ok(error instanceof TemplateRefusal);
    assert.equal(error.message, "Only user and assistant roles!");
    return true;
  });
});

Deno.test("the date is the one that a template falls back to: tokens must not change with the day", () => {
  const source = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}26 Jul 2024{% endif %}";
  assert.equal(new ChatTemplate(source).render({}), "26 Jul 2024");
  assert.throws(() => new ChatTemplate("{{ strftime_now('%d') }}").render({}));
});

Deno.test("renders do not influence each other", () => {
  const template = new ChatTemplate(
    "{% if seen is defined %}again{% endif %}{% set seen = 1 %}{{ range(3) | join(',') }}",
  );
  assert.equal(template.render({}), "0,1,2");
  assert.equal(template.render({}), "0,1,2");
});

Deno.test("strip works through long runs of white space in linear time", () => {
  const template = new ChatTemplate("{{ text.strip() }}|{{ text.rstrip('\\n ') }}");
  const text = "a" + " \n".repeat(200_000) + "b";
  assert.equal(template.render({ text }), `${text}|${text}`);
});

Deno.test("strip takes Python's white space, not JavaScript's", () => {
  const template = new ChatTemplate("[{{ text.strip() }}]");
  assert.equal(template.render({ text: "\x1c\x85 x\ufeff\u3000" }), "[x\ufeff]");
});
