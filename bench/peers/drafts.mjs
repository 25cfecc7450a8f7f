// How each system is told to guess next tokens from what stands in the text already (prompt lookup), or not to: the same lengths for all. A system named
// `NAME+ngram` is NAME told to do it.
const lengths = { matchMin: 2, matchMax: 4, tokens: 8 };
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

export const draftFlags = (name) => flagsOf[systemOf(name)](name.endsWith(suffix));

/** Whether the name is one of ours. */
export const isOurs = (name) => systemOf(name) === 'switchyard';
