import { SwitchyardError } from './errors.ts';
import { limits } from './limits.ts';

/** Why a listener with so many open links lets in no more, which it tells whoever is known by then to belong to the cluster; null: it does. */
export function fullListener(openLinks: number): SwitchyardError | null {
  if (openLinks < limits.linksPerListenerMax) return null;
  return new SwitchyardError('queue_full', `${openLinks} links are open, which is the limit`);
}
