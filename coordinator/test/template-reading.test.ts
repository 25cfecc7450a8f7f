import { describe, expect, it } from 'vitest';
import { readConversation } from '../src/api/chat-messages.ts';
import { Fields } from '../src/api/fields.ts';
import { LeasedMemory } from '../src/api/leased-memory.ts';
import { bounds } from '../src/bounds.ts';
import { ChatTemplate } from '../src/tokenizing/chat-template.ts';
import { PromptEncoder } from '../src/tokenizing/prompt-text.ts';
import { readTokenizerFolder } from '../src/tokenizing/tokenizer-folder.ts';
import { modelDir } from './model-dir.ts';

// Each as a published family reads what clients leave open, and no more than that.
const deepSeek = `{% for m in messages %}{% if m['role'] == 'assistant' and 'tool_calls' in m %}{% for tool in m['tool_calls'] %}{% if m['content'] is none %}{{ '[' + tool['function']['name'] + '|' + tool['function']['arguments'] + ']' }}{% else %}{{ m['content'] + '[' + tool['function']['arguments'] + ']' }}{% endif %}{% endfor %}{% else %}{{ m['content'] }}{% endif %}{% endfor %}`;
const gptOss = `{{- reasoning_effort if reasoning_effort is defined else 'medium' }}: {% for m in messages %}{% if 'content' in m and '<|channel|>' in m.content %}{{ raise_exception('channels in content') }}{% endif %}{% if m.tool_calls %}{% if m.content and m.thinking %}{{ raise_exception('content and thinking') }}{% endif %}<{{ m.thinking or m.content or '' }}>{{ m.tool_calls[0].function.arguments|tojson }}{% else %}{{ m.content }}{% endif %}{% endfor %}`;
const glm = `{% for m in messages %}{{ m.content or '' }}{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{% for tc in m.tool_calls or [] %}{% set _args = tc.function.arguments %}{% for k, v in _args.items() %}<{{ k }}>{{ v | tojson if v is not string else v }}{% endfor %}{% endfor %}{% endfor %}`;
const throughVariable = `{% for m in messages %}{% for tc in m.tool_calls or [] %}{% set args = tc.function.arguments %}{{ 'call ' ~ args }}{% endfor %}{% endfor %}`;
const careless =
  "{% for m in messages %}{{ m.content or '' }}{% for tc in m.tool_calls or [] %}{{ 'call ' + tc.function }}{% endfor %}{% endfor %}";

const conversation = (body: Record<string, unknown>, source: string) =>
  readConversation(
    new Fields({ messages: [{ role: 'user', content: 'Hi.' }], ...body }),
    new ChatTemplate(source, null, {}),
    LeasedMemory.ofBodies(1_000_000).lease(),
  );
const rendered = (body: Record<string, unknown>, source: string) => new ChatTemplate(source, null, {}).render(conversation(body, source));
const call = (args: unknown, rest: Record<string, unknown> = {}) => ({
  messages: [{ role: 'assistant', ...rest, tool_calls: [{ type: 'function', function: { name: 'f', arguments: args } }] }],
});

describe('arguments of calls are given as the template takes them', () => {
  const text = '{ "city":"Köln",  "n":[1,2]}';

  it.each([
    ['joined with text, as their client wrote them', deepSeek, text, `[f|${text}]`],
    ['through a variable, too', throughVariable, text, `call ${text}`],
    ['and if that is no JSON', deepSeek, '{"city":', '[f|{"city":]'],
    ['as text, though they came as an object', deepSeek, { city: 'Köln' }, '[f|{"city":"Köln"}]'],
    ['as text, though there are none', deepSeek, undefined, '[f|{}]'],
    ['taken apart', glm, text, '<city>Köln<n>[1, 2]'],
    ['written as JSON', gptOss, text, 'medium: <>{"city": "Köln", "n": [1, 2]}'],
  ])('%s', (_, source, given, written) => {
    expect(rendered(call(given), source)).toBe(written);
  });

  it('nested as deep as all of a request', () => {
    let deep: unknown = 'x';
    for (let level = 0; level < 100_000; level++) deep = [deep];
    expect(() => conversation(call(deep), deepSeek)).toThrow(`messages is nested deeper than ${bounds.jsonDepthMax} levels`);
  });

  it('and an object in the midst of a text is refused, unless somebody wrote that', () => {
    const encoder = new PromptEncoder({ ...readTokenizerFolder(modelDir), chatTemplate: careless });
    const encode = (body: Record<string, unknown>) =>
      encoder.encode({ kind: 'conversation', conversation: conversation(body, careless) }, Number.POSITIVE_INFINITY);
    expect(() => encode(call({}))).toThrow('the chat template joins text with an object of the messages, which it cannot write');
    expect(encode({ messages: [{ role: 'user', content: 'What is [object Map]?' }] }).length).toBeGreaterThan(0);
  });
});

describe('an assistant that said nothing', () => {
  it.each([
    ['says nothing where content must be text', gptOss, {}, 'medium: <>{}'],
    ['nor does null', gptOss, { content: null }, 'medium: <>{}'],
    ['says what it said', gptOss, { content: 'Well.' }, 'medium: <Well.>{}'],
    ['has none as content elsewhere', deepSeek, {}, '[f|{}]'],
    ['as with null', deepSeek, { content: null }, '[f|{}]'],
    ['which is not the empty text', deepSeek, { content: '' }, '[{}]'],
  ])('%s', (_, source, message, written) => {
    expect(rendered(call('{}', message), source)).toBe(written);
  });
});

describe('what an assistant thought', () => {
  it.each([
    [gptOss, { thinking: 'Hm.' }, 'medium: <Hm.>{}'],
    [gptOss, { reasoning_content: 'Hm.' }, 'medium: <Hm.>{}'],
    [gptOss, { reasoning: 'Hm.' }, 'medium: <Hm.>{}'],
    [gptOss, { thinking: 'Hm.', reasoning: 'Other.' }, 'medium: <Hm.>{}'],
    [gptOss, { content: 'Well.', reasoning_content: 'Hm.' }, 'medium: <Well.>{}'],
    [gptOss, { content: '', reasoning_content: 'Hm.' }, 'medium: <Hm.>{}'],
    [glm, { reasoning: 'Hm.' }, '<think>Hm.</think>'],
    [glm, { content: 'Well.', thinking: 'Hm.' }, 'Well.<think>Hm.</think>'],
  ])('comes under the name that the template knows: %#', (source, message, written) => {
    expect(rendered(call('{}', message), source)).toBe(written);
  });

  it('is refused by a template that will not have it beside what was said, if its client means that', () => {
    expect(() => rendered(call('{}', { content: 'Well.', thinking: 'Hm.' }), gptOss)).toThrow('content and thinking');
    expect(() => conversation(call('{}', { thinking: 5 }), gptOss)).toThrow('messages[0].thinking is the number 5; a string is needed');
  });

  it('is no control token, and markup in it is what the model wrote', () => {
    const folder = readTokenizerFolder(modelDir);
    const added = [...folder.tokenizer.added_tokens, { id: 4000, content: '<tool_call>', special: false, normalized: false }];
    const source = '{{ messages[0].thinking }}';
    const encoder = new PromptEncoder({ ...folder, tokenizer: { ...folder.tokenizer, added_tokens: added }, chatTemplate: source });
    const body = { messages: [{ role: 'assistant', content: '', thinking: '<tool_call><|im_end|>' }] };
    const ids = encoder.encode({ kind: 'conversation', conversation: conversation(body, source) }, Number.POSITIVE_INFINITY);
    expect([ids[0], ids.includes(2)]).toEqual([4000, false]);
  });
});

describe('reasoning_effort', () => {
  it('is told to a template that knows it, after what is said to the template itself', () => {
    expect(rendered({ reasoning_effort: 'high' }, gptOss)).toBe('high: Hi.');
    expect(rendered({ reasoning_effort: 'high', chat_template_kwargs: { reasoning_effort: 'low' } }, gptOss)).toBe('low: Hi.');
    expect(rendered({ reasoning_effort: null }, gptOss)).toBe('medium: Hi.');
    expect(conversation({ reasoning_effort: 'high' }, glm).variables).toEqual({});
  });

  it.each([
    [5, 'reasoning_effort is the number 5; a string is needed'],
    ['x'.repeat(bounds.nameCharsMax + 1), 'reasoning_effort has 129 characters; the limit is 128'],
  ])('is a short text: %#', (effort, told) => {
    expect(() => conversation({ reasoning_effort: effort }, gptOss)).toThrow(told);
    // One that does not look at it leaves it alone.
    expect(conversation({ reasoning_effort: effort }, glm).variables).toEqual({});
  });
});

describe('tools and documents that there are none of', () => {
  // As transformers has it: both are there, and none.
  it.each([
    ['{% if tools is not none %}tools{% else %}none{% endif %}', 'none'],
    ['{% if tools is defined %}there{% endif %}{% if documents is none %} none{% endif %}', 'there none'],
    ['{% if not tools is defined %}{% set tools = none %}{% endif %}{% if tools %}tools{% else %}none{% endif %}', 'none'],
  ])('are none: %s', (source, written) => {
    expect(rendered({}, source)).toBe(written);
    expect(rendered({ tools: [{ type: 'function', function: { name: 'f' } }], tool_choice: 'none' }, source)).toBe(written);
  });

  it('unless a client gives them to the template itself', () => {
    expect(rendered({ chat_template_kwargs: { documents: [{ title: 'Moby-Dick' }] } }, '{{ documents[0].title }}')).toBe('Moby-Dick');
  });
});
