import { limits } from '@switchyard/proto';
import { describe, expect, it } from 'vitest';
import { readConversation } from '../src/api/chat-messages.ts';
import { Fields } from '../src/api/fields.ts';
import { LeasedMemory } from '../src/api/leased-memory.ts';
import { bounds } from '../src/bounds.ts';
import { ChatTemplate } from '../src/tokenizing/chat-template.ts';
import { promptChars } from '../src/tokenizing/prompt-text.ts';

const plain = new ChatTemplate('{{ messages[0].content }}', null, {});
const withTools = new ChatTemplate('{{ tools }}{{ messages[0].content }}', null, {});
const withDeveloper = new ChatTemplate("{{ 'developer' }}{{ messages[0].content }}", null, {});

const hello = { role: 'user', content: 'Hello' };
const tool = (name: unknown) => ({ type: 'function', function: { name } });

const read = (body: Record<string, unknown>, template: ChatTemplate | null = withTools, bytesMax = 1_000_000) =>
  readConversation(new Fields({ messages: [hello], ...body }), template, LeasedMemory.ofBodies(bytesMax).lease());
const messageOf = (message: Record<string, unknown>, template: ChatTemplate | null = plain) =>
  read({ messages: [message] }, template).messages[0];
const refusalOf = (body: Record<string, unknown>, template: ChatTemplate | null = withTools): string => {
  try {
    read(body, template);
  } catch (error) {
    return (error as Error).message;
  }
  return 'taken';
};

describe('messages', () => {
  it.each([
    [{ messages: null }, 'messages is missing'],
    [{ messages: [] }, 'messages is empty; at least one message is needed'],
    [{ messages: 'Hello' }, 'messages is the string "Hello"; a list is needed'],
    [{ messages: [hello, null] }, 'messages[1] is null; an object is needed'],
    [{ messages: [hello, [hello]] }, 'messages[1] is a list; an object is needed'],
    [{ messages: [{ content: 'x' }] }, 'messages[0].role is missing'],
    [
      { messages: [{ role: 'robot', content: 'x' }] },
      'messages[0].role is "robot"; it must be one of system, developer, user, assistant, tool, function',
    ],
    [{ messages: [{ role: 'user', content: null }] }, 'messages[0].content is missing'],
    [{ messages: [{ role: 'assistant' }] }, 'messages[0].content is missing'],
    [{ messages: [{ role: 'user', content: null, tool_calls: [] }] }, 'messages[0].content is missing'],
    [{ messages: [{ role: 'user', content: 5 }] }, 'messages[0].content is the number 5; a string or a list of text parts is needed'],
    [{ messages: [{ role: 'user', content: ['x'] }] }, 'messages[0].content part 0 is the string "x"; an object is needed'],
    [{ messages: [{ role: 'user', content: [[]] }] }, 'messages[0].content part 0 is a list; an object is needed'],
    [
      { messages: [{ role: 'user', content: [{ type: 'text', text: 5 }] }] },
      'messages[0].content part 0 has the number 5 for text; a string is needed',
    ],
    [{ messages: [{ role: 'user', content: [{ type: 'text' }] }] }, 'messages[0].content part 0 has null for text; a string is needed'],
    [
      { messages: [{ role: 'user', content: [{ type: 'text', text: 'x' }, { type: 'image_url' }] }] },
      'messages[0].content part 1 has type "image_url"; this model reads text only',
    ],
    [{ messages: [{ role: 'user', content: [{}] }] }, 'messages[0].content part 0 has type null; this model reads text only'],
    [{ messages: [{ ...hello, audio: {} }] }, 'messages[0].audio is not supported: only text is'],
    [{ messages: [{ ...hello, name: 5 }] }, 'messages[0].name is the number 5; a string is needed'],
    [{ continue_final_message: true }, 'continue_final_message is not supported: use /v1/completions'],
    [{ continue_final_message: false }, 'taken'],
  ])('that cannot be are refused by name: %j', (body, told) => {
    expect(refusalOf(body)).toBe(told);
  });

  it('are so many at most, with names of so many characters', () => {
    expect(read({ messages: Array(limits.messagesMax).fill(hello) }).messages).toHaveLength(limits.messagesMax);
    expect(refusalOf({ messages: Array(limits.messagesMax + 1).fill(hello) })).toBe('messages has 2049 entries; the limit is 2048');
    for (const field of ['name', 'tool_call_id']) {
      const most = 'x'.repeat(bounds.nameCharsMax);
      expect(messageOf({ ...hello, [field]: most })).toEqual({ ...hello, [field]: most });
      expect(refusalOf({ messages: [{ ...hello, [field]: `${most}x` }] })).toBe(
        `messages[0].${field} has 129 characters; the limit is 128`,
      );
    }
  });

  it('keep what templates know, and nothing else', () => {
    const message = { role: 'tool', content: 'x', name: 'f', tool_call_id: 'c', reasoning_content: 'r' };
    expect(messageOf({ ...message, id: 7, weight: 1 })).toEqual(message);
    expect(messageOf({ ...hello, name: null, tool_calls: null })).toEqual(hello);
  });

  it('of parts are their texts together', () => {
    const content = [
      { type: 'text', text: 'a' },
      { type: 'refusal', refusal: 'b' },
      { type: 'text', text: '' },
    ];
    expect(messageOf({ role: 'assistant', content }).content).toBe('ab');
    expect(messageOf({ role: 'user', content: [] }).content).toBe('');
  });

  it.each([
    [plain, 'system'],
    [withDeveloper, 'developer'],
    [null, 'system'],
  ])('of a developer are those of the system where the template knows none', (template, role) => {
    expect(messageOf({ role: 'developer', content: 'x' }, template).role).toBe(role);
    expect(messageOf({ role: 'user', content: 'x' }, template).role).toBe('user');
  });

  it('begin an answer, with variables for the template, as their client says', () => {
    expect(read({})).toMatchObject({ addGenerationPrompt: true, variables: {}, tools: null });
    const said = { add_generation_prompt: false, chat_template_kwargs: { thinking: true } };
    expect(read(said)).toMatchObject({ addGenerationPrompt: false, variables: { thinking: true } });
  });
});

describe('calls of tools', () => {
  const called = (call: unknown) => ({ role: 'assistant', content: null, tool_calls: [call] });

  it.each([
    ['{"a":[1]}', { a: [1] }],
    ['{"a":', '{"a":'],
    [{ a: 1 }, { a: 1 }],
    [undefined, {}],
    [null, {}],
  ])('have their arguments as an object where these are JSON: %j', (given, read) => {
    const message = messageOf(called({ id: 'c', type: 'function', function: { name: 'f', arguments: given } }));
    expect(message.tool_calls).toEqual([{ id: 'c', type: 'function', function: { name: 'f', arguments: read } }]);
    expect(message.content).toBeNull();
  });

  it('have room for the values of their arguments before these are made', () => {
    const text = `[${'[],'.repeat(1000)}0]`;
    const body = { messages: [called({ function: { name: 'f', arguments: text } })] };
    const bytes = text.length + 1001 * 64 + 1000 * 32;
    expect(read(body, plain, bytes).messages).toHaveLength(1);
    const param = 'messages[0].tool_calls[0].function.arguments';
    expect(() => read(body, plain, bytes - 1)).toThrow(
      expect.objectContaining({
        message: `the body with the values of its JSON and of ${param} takes ${bytes} bytes; the limit is ${bytes - 1}`,
        param,
      }),
    );
    const joining = new ChatTemplate("{{ '' + messages[0].tool_calls[0].function.arguments }}", null, {});
    expect(read(body, joining, 0).messages).toHaveLength(1);
  });

  it('hold that room beside what the body has, until it is let go', () => {
    const memory = LeasedMemory.ofBodies(400);
    const [one, other] = [memory.lease(), memory.lease()];
    const fields = () => new Fields({ messages: [called({ function: { name: 'f', arguments: '[[]]' } })] });
    const bytes = '[[]]'.length + 2 * 64;
    one.hold(100);
    readConversation(fields(), plain, one);
    expect(one.bytes).toBe(100 + bytes);
    other.hold(100);
    expect(() => readConversation(fields(), plain, other)).toThrow(
      'requests of 332 bytes are being read; the limit of all together is 400',
    );
    one.end();
    readConversation(fields(), plain, other);
    expect(other.bytes).toBe(100 + bytes);
  });

  it('of the older kind may stand for content', () => {
    expect(messageOf({ role: 'assistant', function_call: { name: 'f' } })).toEqual({ role: 'assistant', content: null });
  });

  it.each([
    [5, 'messages[0].tool_calls[0] is the number 5; an object is needed'],
    [null, 'messages[0].tool_calls[0] is null; an object is needed'],
    [[], 'messages[0].tool_calls[0] is a list; an object is needed'],
    [{}, 'messages[0].tool_calls[0].function.name is missing'],
    [{ function: null }, 'messages[0].tool_calls[0].function.name is missing'],
    [{ function: 'f' }, 'messages[0].tool_calls[0].function.name is missing'],
    [{ function: { name: 5 } }, 'messages[0].tool_calls[0].function.name is missing'],
  ])('that are none are refused by name: %j', (call, told) => {
    expect(refusalOf({ messages: [called(call)] })).toBe(told);
  });

  it('are so many at most', () => {
    const calls = (count: number) => ({ ...called(null), tool_calls: Array(count).fill({ function: { name: 'f' } }) });
    expect(messageOf(calls(bounds.toolsMax)).tool_calls).toHaveLength(bounds.toolsMax);
    expect(refusalOf({ messages: [calls(bounds.toolsMax + 1)] })).toBe('messages[0].tool_calls has 129 entries; the limit is 128');
  });
});

describe('tools', () => {
  const tools = [tool('f'), tool('g')];
  const forced = 'a call cannot be forced without constrained decoding';

  it.each([
    [{ tools }, tools],
    [{ tools, tool_choice: 'auto' }, tools],
    [{ tools, tool_choice: 'none' }, null],
    [{ tools: [] }, null],
    [{ tool_choice: 'none' }, null],
    [{ tools: null, parallel_tool_calls: true }, null],
  ])('are shown to the model unless it shall not call any: %#', (body, shown) => {
    expect(read(body).tools).toEqual(shown);
  });

  it.each([
    [{ tools: [tool('f'), { type: 'web_search' }] }, 'tools[1] has type "web_search"; "function" is needed'],
    [{ tools: [5] }, 'tools[0] has type null; "function" is needed'],
    [{ tools: [tool(5)] }, 'tools[0] has the number 5 for function.name; a string is needed'],
    [{ tools: [{ type: 'function', function: null }] }, 'tools[0] has null for function.name; a string is needed'],
    [{ tools: [], tool_choice: 'auto' }, 'tool_choice is "auto" without tools'],
    [{ tool_choice: 'required' }, 'tool_choice is "required" without tools'],
    [{ tools, tool_choice: 'required' }, `tool_choice is "required"; it must be "auto" or "none": ${forced}`],
    [{ tools, tool_choice: tool('g') }, `tool_choice is an object; it must be "auto" or "none": ${forced}`],
    [{ tools, tool_choice: tool('h') }, 'tool_choice names "h", which is not among tools'],
    [{ tools, tool_choice: {} }, 'tool_choice names null, which is not among tools'],
    [{ functions: [] }, 'functions is not supported: use tools'],
    [{ function_call: 'auto' }, 'function_call is not supported: use tool_choice'],
    [{ parallel_tool_calls: 'no' }, 'parallel_tool_calls is the string "no"; true or false is needed'],
  ])('that cannot be are refused by name: %#', (body, told) => {
    expect(refusalOf(body)).toBe(told);
  });

  it('are so many at most, and need a place in the template', () => {
    const most = Array(bounds.toolsMax).fill(tool('f'));
    expect(read({ tools: most }).tools).toHaveLength(bounds.toolsMax);
    expect(refusalOf({ tools: [...most, tool('f')] })).toBe('tools has 129 entries; the limit is 128');
    expect(refusalOf({ tools }, plain)).toBe("tools is not supported: this model's chat template has no place for tools");
    expect(read({ tools, tool_choice: 'none' }, plain).tools).toBeNull();
    expect(read({ tools }, null).tools).toEqual(tools);
  });
});

describe('nesting', () => {
  const nested = (levels: number): unknown => (levels === 0 ? 'x' : { a: nested(levels - 1) });

  it.each([
    ['messages', (value: unknown) => ({ messages: [{ ...hello, tool_calls: [value] }] }), 3],
    ['tools', (value: unknown) => ({ tools: [value] }), 1],
    ['chat_template_kwargs', (value: unknown) => ({ variables: { a: value } }), 1],
  ])('of %s is bounded, and told by its field', (field, place, around) => {
    const chars = (levels: number) => {
      const conversation = { messages: [hello], tools: null, addGenerationPrompt: true, variables: {}, ...place(nested(levels)) };
      return promptChars({ kind: 'conversation', conversation });
    };
    // A text at the last level is there, too.
    const most = bounds.jsonDepthMax - around - 1;
    expect(chars(most)).toBeGreaterThan(most);
    expect(() => chars(most + 1)).toThrow(`${field} is nested deeper than 64 levels`);
  });
});
