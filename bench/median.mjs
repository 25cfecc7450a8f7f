/** The middle value; of an even number of values the mean of the two in the middle: ratios must not lean to whoever is divided. */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}
