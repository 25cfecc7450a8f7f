import { statSync, unlinkSync } from 'node:fs';
import net from 'node:net';

/** Removes a socket file that a killed process left behind. One that still answers is left alone: listening there then fails, as it should. */
export async function removeAbandonedSocket(path: string): Promise<void> {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined || !found.isSocket()) return;
  const abandoned = await new Promise<boolean>((resolve) => {
    const probe = net.connect(path, () => {
      probe.destroy();
      resolve(false);
    });
    probe.on('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'));
  });
  if (abandoned) unlinkSync(path);
}
