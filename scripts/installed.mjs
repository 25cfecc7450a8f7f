import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';

/**
 * Packages of the lockfile that node_modules does not hold at their version, by npm's own record of what it installed. Optional packages are for other
 * platforms as a rule, and links are our workspaces, so neither counts.
 */
export function missingPackages(root, lockfile) {
  const record = path.join(root, 'node_modules', '.package-lock.json');
  const installed = existsSync(record) ? (JSON.parse(readFileSync(record, 'utf8')).packages ?? {}) : {};
  return Object.entries(lockfile.packages)
    .filter(([where, { link, optional }]) => /(^|\/)node_modules\//.test(where) && !link && !optional)
    .filter(([where, { version }]) => installed[where]?.version !== version || !existsSync(path.join(root, where, 'package.json')))
    .map(([where]) => where);
}
