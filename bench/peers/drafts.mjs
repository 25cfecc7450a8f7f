// How each system is told to guess next tokens from what stands in the text already (prompt lookup), or not to: the same lengths for all. A system named
// `NAME+ngram` is NAME told to do it.
const lengths = { matchMin: 2, matchMax: 4, tokens: 16 };
const suffix = '+ngram';

const flagsOf = {
  switchyard: (guessing) => ['--draft-max', guessing ? lengths.tokens : 0],
  'llama.cpp': (guessing) =>
    guessing
      ? ['--spec-type', 'ngram-simple', '--spec-ngram-simple-size-n', lengths.matchMin, '--spec-ngram-simple-size-m', lengths.tokens]
      : [],
  vllm: (guessing) =>
    guessing
      ? [
          '--speculative-config',
          JSON.stringify({
            method: 'ngram',
            num_speculative_tokens: lengths.tokens,
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
  const [flags, guessing] = [flagsOf[systemOf(name)], name.endsWith(suffix)];
  if (flags === undefined && guessing) throw new Error(`${name}: there is no way to have it guess; ${Object.keys(flagsOf).join(', ')} can`);
  return flags?.(guessing) ?? [];
}

/** Whether the name is one of ours. */
export const isOurs = (name) => systemOf(name) === 'switchyard';
