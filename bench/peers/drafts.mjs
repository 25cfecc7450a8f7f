// How each system is told to guess next tokens from what stands in the text already (prompt lookup), or not to: the same lengths for all. A system named
// `NAME+ngram` is NAME told to do it, `NAME+ngram8` up to eight tokens at a time.
const lengths = { matchMin: 2, matchMax: 4 };
const usualTokens = 16;
const suffix = /\+ngram(\d*)$/;

/** By system: what it is told to guess so many tokens at a time; 0: none. */
const flagsOf = {
  switchyard: (tokens) => ['--draft-max', tokens],
  'llama.cpp': (tokens) =>
    tokens > 0 ? ['--spec-type', 'ngram-simple', '--spec-ngram-simple-size-n', lengths.matchMin, '--spec-ngram-simple-size-m', tokens] : [],
  vllm: (tokens) =>
    tokens > 0
      ? [
          '--speculative-config',
          JSON.stringify({
            method: 'ngram',
            num_speculative_tokens: tokens,
            prompt_lookup_min: lengths.matchMin,
            prompt_lookup_max: lengths.matchMax,
          }),
        ]
      : [],
};

/** The system that a name means, without what it is told. */
export const systemOf = (name) => name.replace(suffix, '');

/** @throws Error where a system is told to guess that nobody knows how to tell */
export function draftFlags(name) {
  const [flags, guessing] = [flagsOf[systemOf(name)], suffix.exec(name)];
  if (flags === undefined && guessing !== null)
    throw new Error(`${name}: there is no way to have it guess; ${Object.keys(flagsOf).join(', ')} can`);
  return flags?.(guessing === null ? 0 : Number(guessing[1] || usualTokens)) ?? [];
}

/** Whether the name is one of ours. */
export const isOurs = (name) => systemOf(name) === 'switchyard';
