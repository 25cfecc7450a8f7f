import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';

/**
 * Whether node_modules already holds every package of the lockfile at its version, by npm's own record of what it installed. Optional packages are for
 * other platforms as a rule, and links are our workspaces, so neither counts.
 */
export function installedMatches(root, lockfile) {
  const record = path.join(root, 'node_modules', '.package-lock.json');
  if (!existsSync(record)) return false;
  const installed = JSON.parse(readFileSync(record, 'utf8')).packages ?? {};
  return Object.entries(lockfile.packages).every(([where, wanted]) => {
    if (!where.startsWith('node_modules/') && !where.includes('/node_modules/')) return true;
    if (wanted.link || wanted.optional) return true;
    return installed[where]?.version === wanted.version && existsSync(path.join(root, where, 'package.json'));
  });
}
