// Text of the domains that the bundled model was trained on, which it has not seen.
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

/** @returns `count` pieces of 900 characters, a domain after the other */
export function unseenPieces(model, count) {
  const folder = path.join(model, 'held-out');
  const domains = readdirSync(folder)
    .filter((name) => name.endsWith('.txt'))
    .map((name) => readFileSync(path.join(folder, name), 'utf8').match(/[\s\S]{1,900}/g));
  return Array.from({ length: count }, (_, i) => {
    const pieces = domains[i % domains.length];
    return pieces[Math.floor(i / domains.length) % pieces.length];
  });
}
