/**
 * Near-best duals of a matching with degree limits: minimise cap x (sum u + sum v) + sum over (e, f) of max(0, W[e][f] - u[e] - v[f]) over u, v >= 0.
 * Every u, v gives a valid bound, so speed decides: a few subgradient steps spread the prices, then exact line searches, one price at a time (for fixed v the best
 * u[e] is the cap-th largest of W[e][f] - v[f]), polish them.
 *
 * @param w (experts, experts)
 */
export function matchingDual(w: Float64Array, experts: number, cap: number, steps: number): { before: Float64Array; after: Float64Array } {
  let u: Float64Array = new Float64Array(experts);
  let v: Float64Array = new Float64Array(experts);
  const scratch = new Float64Array(experts);
  if (cap >= experts) return { before: u, after: v };
  const kthLargest = (k: number) => {
    scratch.sort();
    return scratch[experts - k];
  };
  const polish = () => {
    for (let e = 0; e < experts; e++) {
      for (let f = 0; f < experts; f++) scratch[f] = w[e * experts + f] - v[f];
      u[e] = Math.max(0, kthLargest(cap));
    }
    for (let f = 0; f < experts; f++) {
      for (let e = 0; e < experts; e++) scratch[e] = w[e * experts + f] - u[e];
      v[f] = Math.max(0, kthLargest(cap));
    }
  };
  const value = () => {
    let sum = 0;
    for (let e = 0; e < experts; e++) {
      sum += cap * (u[e] + v[e]);
      for (let f = 0; f < experts; f++) sum += Math.max(0, w[e * experts + f] - u[e] - v[f]);
    }
    return sum;
  };
  for (let e = 0; e < experts; e++) for (let f = 0; f < experts; f++) v[f] = Math.max(v[f], w[e * experts + f] / 2);
  polish();
  let best = value();
  let bestU = u.slice();
  let bestV = v.slice();
  const degreeU = new Float64Array(experts);
  const degreeV = new Float64Array(experts);
  let step = best / (experts * cap * experts);
  for (let i = 0; i < steps; i++) {
    degreeU.fill(0);
    degreeV.fill(0);
    let now = 0;
    for (let e = 0; e < experts; e++) {
      now += cap * (u[e] + v[e]);
      for (let f = 0; f < experts; f++) {
        const slack = w[e * experts + f] - u[e] - v[f];
        if (slack <= 0) continue;
        now += slack;
        degreeU[e]++;
        degreeV[f]++;
      }
    }
    if (now < best) {
      best = now;
      bestU = u.slice();
      bestV = v.slice();
    } else if (i % 20 === 19) step *= 0.7;
    let norm = 0;
    for (let e = 0; e < experts; e++) norm += (degreeU[e] - cap) ** 2 + (degreeV[e] - cap) ** 2;
    if (norm === 0) break;
    for (let e = 0; e < experts; e++) {
      u[e] = Math.max(0, u[e] + step * (degreeU[e] - cap));
      v[e] = Math.max(0, v[e] + step * (degreeV[e] - cap));
    }
  }
  for (let i = 0; i < 2; i++) {
    polish();
    const now = value();
    if (now < best) {
      best = now;
      bestU = u.slice();
      bestV = v.slice();
    }
    u = bestU.slice();
    v = bestV.slice();
  }
  return { before: bestU, after: bestV };
}
