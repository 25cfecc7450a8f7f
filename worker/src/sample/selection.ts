/** What is kept of the bucket in which a cut lies: its keys above `key`, and the first `equals` of those that equal it. */
interface Cut {
  key: number;
  equals: number;
}

/**
 * Partial selection by descending key, ties to the lower id, without sorting everything: keys fall into buckets, whole buckets are kept up to the one where the
 * cut lies, and only that one is put in order. It may have nearly all of them: a large logit bias leaves the others far below. What is kept stays in ascending id.
 */
export class Selection {
  private readonly bucketOf: Uint16Array;
  private readonly weight = new Float64Array(BUCKETS);
  private readonly members: Float64Array;

  constructor(vocab: number) {
    this.bucketOf = new Uint16Array(vocab);
    this.members = new Float64Array(vocab);
  }

  /** Writes the `wanted` tokens with the largest keys into `kept`; returns how many. */
  keepLargest(key: Float64Array, max: number, wanted: number, kept: Int32Array): number {
    const { bucketOf, weight } = this;
    weight.fill(0);
    for (let i = 0; i < key.length; i++) {
      const depth = (max - key[i]) * BUCKETS_PER_UNIT;
      const bucket = depth < LAST_BUCKET ? depth | 0 : LAST_BUCKET;
      bucketOf[i] = bucket;
      weight[bucket]++;
    }
    let boundary = 0;
    let sure = 0;
    while (sure + weight[boundary] < wanted) sure += weight[boundary++];
    const members = this.membersOf(boundary, key.length, key);
    moveLargest(members, wanted - sure);
    const cut = cutBefore(members, wanted - sure);
    let out = 0;
    let equals = 0;
    for (let i = 0; i < key.length; i++) {
      if (bucketOf[i] > boundary) continue;
      if (bucketOf[i] === boundary && (key[i] < cut.key || (key[i] === cut.key && ++equals > cut.equals))) continue;
      kept[out++] = i;
    }
    return out;
  }

  /**
   * Keeps the smallest set of tokens, largest mass first, whose mass reaches `wanted`; one at least. Both arrays are compacted in place. Returns how many are left,
   * or null, with nothing changed, where masses below `least` are not in the arrays and may be wanted; `least` is 0 or `leastMass` of something.
   */
  keepMass(tokens: Int32Array, mass: Float64Array, count: number, wanted: number, least: number): number | null {
    const { bucketOf, weight } = this;
    weight.fill(0);
    for (let i = 0; i < count; i++) {
      const bucket = massBucket(mass[i]);
      bucketOf[i] = bucket;
      weight[bucket] += mass[i];
    }
    let boundary = 0;
    let sum = 0;
    while (boundary < LAST_BUCKET && sum + weight[boundary] < wanted) sum += weight[boundary++];
    if (least > 0 && boundary > massBucket(least)) return null;
    // Sums depend on the order of their terms.
    const ascending = this.membersOf(boundary, count, mass).sort();
    let taken = 0;
    while (taken < ascending.length && (sum < wanted || (boundary === 0 && taken === 0))) sum += ascending[ascending.length - ++taken];
    const cut = cutBefore(ascending, taken);
    let out = 0;
    let equals = 0;
    for (let i = 0; i < count; i++) {
      if (bucketOf[i] > boundary) continue;
      if (bucketOf[i] === boundary && (mass[i] < cut.key || (mass[i] === cut.key && ++equals > cut.equals))) continue;
      tokens[out] = tokens[i];
      mass[out++] = mass[i];
    }
    return out;
  }

  /** Keys of a bucket; valid until the next call. */
  private membersOf(bucket: number, count: number, key: Float64Array): Float64Array {
    const { bucketOf, members } = this;
    let found = 0;
    for (let i = 0; i < count; i++) if (bucketOf[i] === bucket) members[found++] = key[i];
    return members.subarray(0, found);
  }
}

/** The cut that keeps the last `taken` keys, none of which is below any other: the least of them comes first. */
function cutBefore(keys: Float64Array, taken: number): Cut {
  if (taken === 0) return { key: Number.POSITIVE_INFINITY, equals: 0 };
  const first = keys.length - taken;
  const key = keys[first];
  let equals = 0;
  for (let i = first; i < keys.length; i++) if (keys[i] === key) equals++;
  return { key, equals };
}

/** Moves the `wanted` largest keys to the end, the least of them first: Hoare's selection, which looks at each key two or three times. */
function moveLargest(keys: Float64Array, wanted: number): void {
  const place = keys.length - wanted;
  let low = 0;
  let high = keys.length - 1;
  while (low < high) {
    const pivot = median(keys[low], keys[(low + high) >> 1], keys[high]);
    let i = low;
    let j = high;
    while (i <= j) {
      while (keys[i] < pivot) i++;
      while (keys[j] > pivot) j--;
      if (i > j) break;
      const key = keys[i];
      keys[i++] = keys[j];
      keys[j--] = key;
    }
    if (place <= j) high = j;
    else if (place >= i) low = i;
    else return;
  }
}

function median(a: number, b: number, c: number): number {
  return Math.max(Math.min(a, b), Math.min(Math.max(a, b), c));
}

const BUCKETS = 1024;
const LAST_BUCKET = BUCKETS - 1;
const BUCKETS_PER_UNIT = 16;

const massBits = new Float64Array(1);
const massWords = new Uint32Array(massBits.buffer);

/** Larger masses in lower buckets; a mass in (0, 1] has 8 buckets per power of two, and zero and the tiniest share the last. */
function massBucket(mass: number): number {
  massBits[0] = mass;
  const eighths = (0x3ff00000 - massWords[1]) >> 17; // exponent and the three leading mantissa bits, from 1 downwards
  return Math.min(eighths, LAST_BUCKET);
}

/** The least mass that falls into the same bucket; 0 in the last one. */
export function leastMass(mass: number): number {
  const bucket = massBucket(mass);
  if (bucket === LAST_BUCKET) return 0;
  massWords[0] = 0;
  massWords[1] = 0x3ff00000 - ((bucket + 1) << 17) + 1;
  return massBits[0];
}
