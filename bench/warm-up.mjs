// A program that runs in a just-in-time compiler is at its best only after a while: one stream over fresh workers begins at a third of its speed
// (results/engine-warming.md). What is measured is a server that has served for a while, whoever made it.

/**
 * Repeats `round` until `patience` of them in a row were not faster than the fastest before by `gain`.
 *
 * @param round resolves to a speed, any unit
 * @returns the speeds
 */
export async function warmUp(round, { patience = 3, gain = 1.03, roundsMax = 30 } = {}) {
  const speeds = [];
  let best = 0;
  let since = 0;
  while (since < patience && speeds.length < roundsMax) {
    const speed = await round();
    speeds.push(speed);
    since = speed > best * gain ? 0 : since + 1;
    best = Math.max(best, speed);
  }
  return speeds;
}
