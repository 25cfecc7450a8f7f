import { availableCpus } from '@switchyard/proto';
import { Command } from 'commander';
import type { Check } from '../doctor/check.ts';
import { checkLocalLinks, checkPeerAddresses, peerChoices } from '../doctor/links.ts';
import { availableMemory, checkCpus, checkMemory, checkOpenFiles, describeBandwidth } from '../doctor/machine.ts';
import { checkNativeKernels } from '../doctor/native-kernels.ts';
import { bytesPerThread, measureReadBandwidth } from '../doctor/read-bandwidth.ts';
import { checkCompiler, checkModel, checkNode, checkOptionalTools, checkPort, checkTemporaryFolder } from '../doctor/software.ts';
import { CommandFailure } from '../failure.ts';
import { coloursOf } from '../terminal/colours.ts';
import { integerIn } from '../terminal/option-values.ts';
import { visible } from '../terminal/visible.ts';

export function doctorCommand(): Command {
  return new Command('doctor')
    .description('Check what this machine has and say how to fix what it lacks')
    .option('--port <port>', 'the port that `switchyard up` would use', integerIn(1, 65_535), 8000)
    .option('--link <address...>', 'addresses that a worker announces: say which would be dialled from here, and why')
    .option('--json', 'print the checks as JSON')
    .addHelpText(
      'after',
      '\nExits with 1 when something has to be fixed before `switchyard up` can work.\n\nExample:\n  $ switchyard doctor --port 9000\n  $ switchyard doctor --link uds:///run/n1w0.sock grpc://10.0.0.2:4101 nats://broker:4222/switchyard.n1w0',
    )
    .action(async (options: { port: number; link?: string[]; json?: boolean }) => {
      const peers = peerChoices(options.link ?? []);
      const threads = availableCpus().length;
      // Seen before the measurement takes its share.
      const memory = checkMemory();
      const bytes = bytesPerThread(threads, availableMemory());
      const readBandwidthBytesPerSecond = await measureReadBandwidth(threads, bytes);
      const checks = [
        checkNode(),
        ...(await checkNativeKernels()),
        checkCompiler(),
        checkCpus(),
        memory,
        describeBandwidth(readBandwidthBytesPerSecond, threads, bytes),
        checkOpenFiles(),
        await checkPort(options.port),
        checkTemporaryFolder(),
        checkModel(),
        ...(await checkLocalLinks()),
        ...(await checkPeerAddresses(peers)),
        ...checkOptionalTools(),
      ];
      if (options.json)
        process.stdout.write(
          `${JSON.stringify({ format: 'switchyard-doctor', version: 1, readBandwidthBytesPerSecond, checks }, null, 2)}\n`,
        );
      else for (const check of checks) process.stdout.write(line(check));
      if (checks.some((check) => check.status === 'failed'))
        throw new CommandFailure('something has to be fixed before `switchyard up` can work');
    });
}

function line(check: Check): string {
  const { green, yellow, red, dim } = coloursOf(process.stdout);
  const marks: Record<Check['status'], string> = { ok: green('ok'), warning: yellow('!!'), failed: red('XX'), absent: dim('--') };
  const fix = check.fix === null ? '' : `\n${' '.repeat(23)}fix: ${check.fix}`;
  return `${marks[check.status]}  ${check.name.padEnd(18)} ${visible(check.found, process.stdout)}${fix}\n`;
}
