import { readConversation } from './chat-messages.ts';
import type { Exchange } from './exchange.ts';
import { readFields } from './generation.ts';
import { checkToken } from './sampling-fields.ts';
import type { Service } from './service.ts';

/** Ids of one /detokenize request: the longest published contexts. */
const detokenizeMax = 2 ** 21;

/**
 * POST /tokenize, as vLLM has it (`prompt` or `messages`, `add_special_tokens`, `return_token_strs`), and as llama.cpp has it (`content`, `add_special`,
 * `parse_special`).
 */
export async function tokenize(service: Service, exchange: Exchange): Promise<Record<string, unknown>> {
  const fields = await readFields(service, exchange);
  const { template, pieces } = service.tokenizing;
  const text = fields.text('prompt') ?? fields.text('content');
  if (text === null && !fields.has('messages')) throw fields.invalid('prompt', 'is missing');
  const llamaStyle = fields.has('content');
  const addSpecialTokens = fields.flag('add_special_tokens') ?? fields.flag('add_special') ?? !llamaStyle;
  const controls = fields.flag('parse_special') ?? true;
  const ids = await service.tokenizing.encode(
    text === null
      ? { kind: 'conversation', conversation: readConversation(fields, template, exchange.body) }
      : { kind: 'text', text, addSpecialTokens, controls },
    { unwanted: exchange.closed },
  );
  const tokens = Array.from(ids);
  const strings = fields.flag('return_token_strs') === true ? { token_strs: tokens.map((token) => pieces.textAlone(token)) } : {};
  return { count: tokens.length, max_model_len: service.contextMax() ?? undefined, tokens, ...strings };
}

/** POST /detokenize: ids to text, control tokens spelled out. */
export async function detokenize(service: Service, exchange: Exchange): Promise<Record<string, unknown>> {
  const fields = await readFields(service, exchange);
  const given = fields.list('tokens', detokenizeMax);
  if (given === null) throw fields.invalid('tokens', 'is missing');
  const tokens = given.map((token) => checkToken(fields, 'tokens', token, service.model.vocab));
  const { pieces } = service.tokenizing;
  const bytes = tokens.reduce((sum, token) => sum + pieces.bytes(token).length, 0);
  // An id and its comma take about as much as the text of most tokens, the longest take 100 times: an answer is no longer than a request may be.
  const { bodyBytesMax } = service.config;
  if (bytes > bodyBytesMax) throw fields.invalid('tokens', `stand for ${bytes} bytes of text; the limit is ${bodyBytesMax}`);
  // The answer has it twice. Where there is no room for that it need not be made.
  exchange.answer.hold(2 * bytes);
  const text = pieces.text(tokens);
  return { prompt: text, content: text };
}
