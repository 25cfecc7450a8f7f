import { type Hello, limits } from '@switchyard/proto';
import { bounds } from '../bounds.ts';

/** What is too long in what a worker says of itself, which is kept, shown in the status and told to its peers; or null. Memories have bounds of their own. */
export function tooLongIn({ name, node, device, softwareVersion, dataAddresses }: Hello): string | null {
  const { deviceCharsMax, addressCharsMax } = bounds;
  // As plans have it.
  const nameCharsMax = limits.nameLengthMax;
  const parts: [what: string, texts: readonly string[], charsMax: number][] = [
    ['name', [name], nameCharsMax],
    ['node', [node], nameCharsMax],
    ['softwareVersion', [softwareVersion], nameCharsMax],
    ['device', [device], deviceCharsMax],
    ['dataAddresses', dataAddresses, addressCharsMax],
  ];
  for (const [what, texts, charsMax] of parts)
    for (const { length } of texts) if (length > charsMax) return `hello: ${what} has ${length} characters; the limit is ${charsMax}`;
  return null;
}
