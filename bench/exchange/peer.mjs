// The other process: `node peer.mjs <subject> <folder> [<port of the broker>]` listens, prints its address and serves the commands of `measure.mjs`.
import { serveCommands } from './measure.mjs';
import { linkOptions, subjects } from './subjects.mjs';

const [, , name, folder, broker] = process.argv;
const subject = subjects[name];
const listener = await subject.transport().listen(subject.address(folder, broker), linkOptions, serveCommands);
process.stdout.write(`${listener.address}\n`);
process.stdin.on('end', () => process.exit(0)).resume();
