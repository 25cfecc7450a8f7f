import { SwitchyardError } from '@switchyard/proto';
import type { TokenizerConfig, TokenizerFolder, TokenizerJson } from './tokenizer-folder.ts';

/** Classes that make what goes around a text themselves, from their own settings, whatever tokenizer.json says: DeepSeek's has no beginning-of-sequence token. */
const llamaClasses = ['LlamaTokenizer', 'LlamaTokenizerFast'];

/** What that class takes for settings that tokenizer_config.json does not have. */
const llamaDefaults = { add_bos_token: true, bos_token: '<s>', add_eos_token: false, eos_token: '</s>' };

/** What puts a model's own tokens around every text. @throws SwitchyardError `bad_checkpoint` when such a token is not in the vocabulary */
export function postProcessorOf({ file, tokenizer, config }: TokenizerFolder): unknown {
  if (!llamaClasses.includes(config.tokenizer_class as string)) return tokenizer.post_processor;
  const settings: TokenizerConfig = { ...llamaDefaults, ...config };
  const around = (which: 'bos' | 'eos') => {
    if (!settings[`add_${which}_token`]) return [];
    const token = tokenText(settings[`${which}_token`]);
    if (token === null || !hasToken(tokenizer, token))
      throw new SwitchyardError(
        'bad_checkpoint',
        `${file}: ${which}_token ${JSON.stringify(token)}, which add_${which}_token of tokenizer_config.json asks for, is not in the vocabulary`,
      );
    return [{ SpecialToken: { id: token, type_id: 0 } }];
  };
  return { type: 'TemplateProcessing', single: [...around('bos'), { Sequence: { id: 'A', type_id: 0 } }, ...around('eos')] };
}

/** A token as tokenizer_config.json has it: a string, or an object with its content. */
export function tokenText(value: unknown): string | null {
  const content = typeof value === 'object' && value !== null ? (value as { content?: unknown }).content : value;
  return typeof content === 'string' ? content : null;
}

function hasToken({ added_tokens, model }: TokenizerJson, token: string): boolean {
  if (added_tokens.some(({ content }) => content === token)) return true;
  return Array.isArray(model.vocab) ? model.vocab.some(([piece]) => piece === token) : Object.hasOwn(model.vocab, token);
}
