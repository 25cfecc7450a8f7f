// Brings a checkout to a runnable state: see checkout.mjs. This file and the one it imports keep to what Node 12 can parse (no `?.`, no `??`, no `node:`), so that an
// old Node is told what is needed instead of failing on the syntax of the rest.
import { nodeNeeded, nodeSuffices } from './node-version.mjs';

if (nodeSuffices(process.versions.node)) {
  import('./checkout.mjs').then(({ setUp }) => setUp());
} else {
  process.stderr.write(
    `switchyard setup: Node ${nodeNeeded} is needed, this is ${process.versions.node}: install it from https://nodejs.org\n`,
  );
  process.exit(1);
}
