let last = 0;

/**
 * A greedy request that never stops early, of `tokens` prompt tokens drawn at random.
 *
 * @param draw integers that name it (round, cell, number in the cell): the prompt is a function of them, so that whoever is compared gets the same ones, and
 *   other draws have others. The request's id is its own.
 */
export function request(vocab, tokens, maxTokens, draw) {
  const next = random(draw);
  return {
    request: ++last,
    prompt: Array.from({ length: tokens }, () => next() % vocab),
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
    minTokens: 0,
    reportRouting: false,
    replaySequence: 0,
    prediction: [],
  };
}

/** Unsigned 32-bit numbers (splitmix32), from a seed that every one of the integers changes. */
function random(integers) {
  let state = integers.reduce((seed, integer) => mix((seed + integer + 0x9e3779b9) | 0), 0);
  return () => {
    state = (state + 0x9e3779b9) | 0;
    return mix(state) >>> 0;
  };
}

function mix(x) {
  const half = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  const whole = Math.imul(half ^ (half >>> 15), 0x735a2d97);
  return whole ^ (whole >>> 15);
}
