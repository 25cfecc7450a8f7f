/** Who is measured first in an odd round is last in an even one: a machine that is slower after each start, or warms up, must not do so to the same one every time. */
export function inTurn(names, round) {
  return round % 2 === 0 ? [...names] : [...names].reverse();
}
