import { SwitchyardError } from './errors.ts';
import { limits } from './limits.ts';
import type { Link } from './link.ts';

/** Resolves when a link that has begun to close is closed. Its peer has `closeTimeoutMs` for that; then the link is cut. */
export async function closedInTime(link: Link): Promise<void> {
  const timer = setTimeout(
    () => void link.close(new SwitchyardError('link_closed', `${link.peer} did not close within ${limits.closeTimeoutMs} ms`)),
    limits.closeTimeoutMs,
  );
  await link.closed;
  clearTimeout(timer);
}
