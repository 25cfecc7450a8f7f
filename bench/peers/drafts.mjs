// How each system is told to guess next tokens from what stands in the text already (prompt lookup), or not to: the same lengths for all.
const drafts = { matchMin: 2, matchMax: 4, tokens: 8 };

export const draftKinds = ['none', 'ngram'];

/** Flags of each system for a kind of drafts. */
export const draftFlags = {
  switchyard: (kind) => ['--draft-max', kind === 'ngram' ? drafts.tokens : 0],
  'llama.cpp': (kind) =>
    kind === 'ngram'
      ? ['--spec-type', 'ngram-simple', '--spec-ngram-simple-size-n', drafts.matchMin, '--spec-ngram-simple-size-m', drafts.tokens]
      : [],
  vllm: (kind) =>
    kind === 'ngram'
      ? [
          '--speculative-config',
          JSON.stringify({
            method: 'ngram',
            num_speculative_tokens: drafts.tokens,
            prompt_lookup_min: drafts.matchMin,
            prompt_lookup_max: drafts.matchMax,
          }),
        ]
      : [],
};

/** @throws Error where there is no such kind */
export function checkDrafts(kind) {
  if (!draftKinds.includes(kind)) throw new Error(`--drafts is ${kind}; it must be one of ${draftKinds.join(', ')}`);
  return kind;
}
