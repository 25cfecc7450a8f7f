// A seeded routing trace of any shape with the structure of real ones: sequences have a topic, topics prefer some experts of every layer, popularity is skewed.
import { seededRandom } from '@switchyard/placement';

/** @returns a RoutingTrace of `tokens` tokens in sequences of 64, top-`topK` of `experts` experts in `layers` layers */
export function syntheticTrace({ layers, experts, topK, tokens, topics = 16, seed = 1 }) {
  const random = seededRandom(seed);
  const weight = new Float64Array(topics * layers * experts);
  for (let l = 0; l < layers; l++) {
    const rank = Array.from({ length: experts }, (_, e) => e);
    for (let i = experts - 1; i > 0; i--) {
      const j = random.below(i + 1);
      [rank[i], rank[j]] = [rank[j], rank[i]];
    }
    for (let e = 0; e < experts; e++)
      for (let t = 0; t < topics; t++) weight[(t * layers + l) * experts + e] = (1 + rank[e]) ** -0.4 * (random.next() < 0.25 ? 6 : 1);
  }
  const perSequence = 64;
  const ids = new Uint16Array(tokens * layers * topK);
  const sequenceOf = new Uint32Array(tokens);
  const sequences = [];
  const key = new Float64Array(experts);
  for (let t = 0; t < tokens; t++) {
    const s = Math.floor(t / perSequence);
    if (s === sequences.length) sequences.push({ sequence: s, domain: `topic-${random.below(topics)}`, tokens: 0 });
    sequences[s].tokens++;
    sequenceOf[t] = s;
    const topic = Number(sequences[s].domain.slice(6));
    for (let l = 0; l < layers; l++) {
      // Weighted sampling without replacement (exponential keys).
      for (let e = 0; e < experts; e++) key[e] = -Math.log(1 - random.next()) / weight[(topic * layers + l) * experts + e];
      for (let k = 0; k < topK; k++) {
        let best = 0;
        for (let e = 1; e < experts; e++) if (key[e] < key[best]) best = e;
        ids[(t * layers + l) * topK + k] = best;
        key[best] = Infinity;
      }
    }
  }
  return {
    model: 'synthetic',
    moeLayers: Array.from({ length: layers }, (_, l) => l),
    experts,
    topK,
    tokens,
    ids,
    sequenceOf,
    generated: new Uint8Array(tokens).fill(1),
    sequences,
  };
}
