import { limits } from '@switchyard/proto';
import { bounds } from '../bounds.ts';
import type { ChatTemplate, Conversation, TemplateMessage } from '../tokenizing/chat-template.ts';
import { checkNesting } from '../tokenizing/prompt-text.ts';
import { holdParsed } from './body.ts';
import { Fields, quoted, shown, typeName } from './fields.ts';
import type { MemoryLease } from './leased-memory.ts';

const roles = ['system', 'developer', 'user', 'assistant', 'tool', 'function'] as const;

/** For whom messages are read, and what holds what is made of them. */
interface Reading {
  template: ChatTemplate | null;
  body: MemoryLease;
}

/**
 * The conversation of a chat request, as templates take it. Roles are of a fixed list, for templates make control tokens of them; all other text stays what
 * people wrote.
 *
 * @param body holds what is made of it
 * @throws SwitchyardError `invalid_request`, `body_too_large`, `queue_full`
 */
export function readConversation(fields: Fields, template: ChatTemplate | null, body: MemoryLease): Conversation {
  const given = fields.list('messages', limits.messagesMax);
  if (given === null) throw fields.invalid('messages', 'is missing');
  if (given.length === 0) throw fields.invalid('messages', 'is empty; at least one message is needed');
  const messages = given.map((message, i) => readMessage(fields, message, i, { template, body }));
  const tools = readTools(fields, template);
  if (fields.flag('continue_final_message') === true)
    throw fields.invalid('continue_final_message', 'is not supported: use /v1/completions');
  return {
    messages,
    tools,
    addGenerationPrompt: fields.flag('add_generation_prompt') ?? true,
    variables: { ...readEffort(fields, template), ...fields.object('chat_template_kwargs') },
  };
}

/** How hard the model shall think, where its template can tell it. */
function readEffort(fields: Fields, template: ChatTemplate | null): Record<string, unknown> {
  if (template?.takesReasoningEffort === true) return optional('reasoning_effort', fields.text('reasoning_effort', bounds.nameCharsMax));
  fields.ignore('reasoning_effort');
  return {};
}

/** What a client expects of the answer, for workers to guess from; null: it does not say. @throws SwitchyardError `invalid_request` */
export function readPrediction(fields: Fields): string | null {
  const given = fields.object('prediction');
  if (given === null) return null;
  const prediction = new Fields(given, 'prediction');
  if (prediction.oneOf('type', ['content']) === null) throw prediction.invalid('type', 'is missing; "content" is needed');
  const content = readContent(prediction);
  if (content === null) throw prediction.invalid('content', 'is missing');
  return content;
}

function readMessage(parent: Fields, value: unknown, index: number, reading: Reading): TemplateMessage {
  const { template } = reading;
  const path = `messages[${index}]`;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw parent.wrong(path, value, 'an object is needed');
  const message = new Fields(value as Record<string, unknown>, path);
  const role = message.oneOf('role', roles);
  if (role === null) throw message.invalid('role', 'is missing');
  const toolCalls = message.list('tool_calls', bounds.toolsMax);
  // An assistant that refused has said so there, and nothing as content.
  const refusal = role === 'assistant' ? message.text('refusal') : null;
  const content = readContent(message) ?? refusal;
  if (content === null && !(role === 'assistant' && (toolCalls !== null || message.has('function_call'))))
    throw message.invalid('content', 'is missing');
  message.refuse('audio', 'only text is');
  return {
    role: role === 'developer' && template?.knowsDeveloper !== true ? 'system' : role,
    // OpenAI's clients say nothing and null alike for no content.
    ...(content === null && template?.reading.contentIsText === true ? {} : { content }),
    ...optional('name', message.text('name', bounds.nameCharsMax)),
    ...optional('tool_call_id', message.text('tool_call_id', bounds.nameCharsMax)),
    ...readThought(message, template, toolCalls !== null && content !== null && content !== ''),
    ...optional('tool_calls', toolCalls?.map((call, i) => readToolCall(message, call, i, reading)) ?? null),
  };
}

/** What people call the text that a model thinks before it answers. */
const thoughtFields = ['thinking', 'reasoning_content', 'reasoning'];

/**
 * What was thought, under the names that it came by and those under which the template looks for it.
 *
 * @param spokenToo beside calls something was said, too: GPT-OSS' template, which says "thinking", refuses a message of both unless its client means it
 */
function readThought(message: Fields, template: ChatTemplate | null, spokenToo: boolean): Record<string, unknown> {
  // What no template looks at may be anything.
  const read = thoughtFields.some((name) => template?.reading.fields.has(name));
  const given = new Map(thoughtFields.map((name) => [name, read ? message.text(name) : stringOf(message.raw(name))]));
  const thought = [...given.values()].find((text) => text !== null) ?? null;
  const wanted = (name: string) => template?.reading.fields.has(name) === true && !(name === 'thinking' && spokenToo);
  const named = thoughtFields.map((name) => [name, given.get(name) ?? (wanted(name) ? thought : null)]);
  return Object.fromEntries(named.filter(([, text]) => text !== null));
}

function stringOf(value: unknown): string | null {
  return typeof value === 'string' ? value : null;
}

function optional(name: string, value: unknown): Record<string, unknown> {
  return value === null ? {} : { [name]: value };
}

/** A string, or a list of text parts, which are joined. */
function readContent(message: Fields): string | null {
  const value = message.raw('content');
  if (value === null || typeof value === 'string') return value;
  if (!Array.isArray(value)) throw message.wrong('content', value, 'a string or a list of text parts is needed');
  return value
    .map((part, i) => {
      const fields = typeof part === 'object' && part !== null && !Array.isArray(part) ? (part as Record<string, unknown>) : null;
      if (fields === null) throw message.invalid('content', `part ${i} is ${typeName(part)}; an object is needed`);
      const { type } = fields;
      const text = type === 'text' ? fields.text : type === 'refusal' ? fields.refusal : undefined;
      if (typeof text === 'string') return text;
      if (type === 'text') throw message.invalid('content', `part ${i} has ${typeName(text ?? null)} for text; a string is needed`);
      throw message.invalid(
        'content',
        `part ${i} has type ${typeof type === 'string' ? quoted(type) : typeName(type ?? null)}; this model reads text only`,
      );
    })
    .join('');
}

function readToolCall(message: Fields, value: unknown, index: number, { template, body }: Reading): unknown {
  const path = `tool_calls[${index}]`;
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw message.invalid(path, `is ${typeName(value)}; an object is needed`);
  const call = value as { function?: { name?: unknown; arguments?: unknown } };
  if (typeof call.function !== 'object' || call.function === null || typeof call.function.name !== 'string')
    throw message.invalid(`${path}.function.name`, 'is missing');
  const given = call.function.arguments ?? {};
  return {
    ...call,
    function: {
      ...call.function,
      arguments: template?.reading.joinsArguments
        ? argumentsText(given)
        : argumentsObject(given, body, message.pathOf(`${path}.function.arguments`)),
    },
  };
}

/** Clients send arguments as JSON text. Those that do not have theirs written as text. */
function argumentsText(value: unknown): string {
  if (typeof value === 'string') return value;
  checkNesting(value, 'messages');
  return JSON.stringify(value);
}

function argumentsObject(value: unknown, body: MemoryLease, param: string): unknown {
  if (typeof value !== 'string') return value;
  holdParsed(value, body, param);
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

/** Null when no tools are to be shown to the model. */
function readTools(fields: Fields, template: ChatTemplate | null): unknown[] | null {
  fields.refuse('functions', 'use tools');
  fields.refuse('function_call', 'use tool_choice');
  fields.flag('parallel_tool_calls');
  const tools = fields.list('tools', bounds.toolsMax) ?? [];
  tools.forEach((tool, i) => {
    const { type, function: called } = (tool ?? {}) as { type?: unknown; function?: { name?: unknown } };
    if (type !== 'function') throw fields.invalid(`tools[${i}]`, `has type ${shown(type ?? null)}; "function" is needed`);
    if (typeof called?.name !== 'string')
      throw fields.invalid(`tools[${i}]`, `has ${typeName(called?.name ?? null)} for function.name; a string is needed`);
  });
  const choice = fields.raw('tool_choice');
  if (choice !== null && choice !== 'none' && tools.length === 0) throw fields.invalid('tool_choice', `is ${shown(choice)} without tools`);
  if (choice === 'none' || tools.length === 0) return null;
  if (typeof choice === 'object' && choice !== null) {
    const name = (choice as { function?: { name?: unknown } }).function?.name;
    const names = (tools as { function: { name: string } }[]).map((tool) => tool.function.name);
    if (typeof name !== 'string' || !names.includes(name))
      throw fields.invalid(
        'tool_choice',
        `names ${typeof name === 'string' ? quoted(name) : typeName(name ?? null)}, which is not among tools`,
      );
  }
  if (choice !== null && choice !== 'auto')
    throw fields.invalid(
      'tool_choice',
      `is ${shown(choice)}; it must be "auto" or "none": a call cannot be forced without constrained decoding`,
    );
  if (template !== null && !template.supportsTools)
    throw fields.invalid('tools', "is not supported: this model's chat template has no place for tools");
  return tools;
}
