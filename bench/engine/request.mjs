// A greedy request of `tokens` prompt tokens, none shared with another request, that never stops early.
let last = 0;

export function request(vocab, tokens, maxTokens) {
  const id = ++last;
  return {
    request: id,
    prompt: Array.from({ length: tokens }, (_, i) => (id * 7919 + i * i * 31 + i) % vocab),
    maxTokens,
    sampling: {
      temperature: 0,
      topP: 1,
      topK: 0,
      minP: 0,
      repetitionPenalty: 1,
      presencePenalty: 0,
      frequencyPenalty: 0,
      seed: 0n,
      biasToken: [],
      biasValue: [],
    },
    stopTokens: [],
    logprobs: 0,
    wantLogprob: false,
    promptLogprobs: false,
    tenant: '',
    domain: '',
    ignoreEos: true,
    minTokens: 0,
    traceId: '',
    reportRouting: false,
    replaySequence: 0,
  };
}
