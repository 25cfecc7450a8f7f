// Results as a page. The best of many short rounds is what each subject can do when nothing else runs; the JSON beside the page has every sample.

/** @param run { command, machine, cells: [{ mode, bytes, samples: { name: number[] }, processor: { name: number[] } }], subjects } */
export function report({ command, machine, cells, subjects }) {
  const lines = [
    '# Links: round trips and throughput',
    '',
    `\`${command}\`, ${machine.date}, ${machine.cores} × ${machine.cpu}, ${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB, ${machine.kernel}, Node ${machine.node},`,
    `load average ${machine.load.toFixed(1)}. Two processes on one machine (memory: one process). Subjects take turns in short rounds; shown is the best of them, in`,
    'brackets its ratio to the best of the baseline: blocking C with the same framing and no handshake, over the same kind of socket or memory (gRPC, NATS: TCP).',
    '',
  ];
  const echo = cells.filter((c) => c.mode === 'echo');
  lines.push(
    '## Round trip, µs (× the baseline; less is better)',
    '',
    ...table(echo, subjects, least, (seconds) => (seconds * 1e6).toFixed(0)),
    '',
  );
  const stream = cells.filter((c) => c.mode === 'stream');
  lines.push(
    '## One way, GB/s (× the baseline; more is better)',
    '',
    ...table(stream, subjects, most, (bytes) => (bytes / 1e9).toFixed(2)),
    '',
  );
  lines.push(
    '## Processor seconds per GB, both sides and the broker (× the baseline; less is better)',
    '',
    'Less changed by what else runs than the clock is, so this is the steadier comparison.',
    '',
    ...table(
      stream.map((c) => ({ ...c, samples: c.processor })),
      subjects,
      least,
      (seconds) => (seconds * 1e9).toFixed(2),
    ),
    '',
  );
  if (stream[0].samples.grpc === undefined || stream[0].samples['gRPC as it comes'] === undefined) return lines.join('\n');
  const tuned = stream.map((c) => `${(most(c.samples.grpc) / most(c.samples['gRPC as it comes'])).toFixed(1)}× at ${size(c.bytes)}`);
  lines.push(`The grpc transport is faster than gRPC as it comes by ${tuned.join(', ')}.`, '');
  return lines.join('\n');
}

function table(cells, subjects, best, show) {
  const names = Object.keys(cells[0].samples);
  const rows = names.map((name) => {
    const baseline = subjects[name]?.baseline;
    const values = cells.map((c) => {
      const shown = show(best(c.samples[name]));
      return baseline == null ? shown : `${shown} (${(best(c.samples[name]) / best(c.samples[`C ${baseline}`])).toFixed(2)}×)`;
    });
    return `| ${name} | ${values.join(' | ')} |`;
  });
  return [`| | ${cells.map((c) => size(c.bytes)).join(' | ')} |`, `| --- |${cells.map(() => ' ---: |').join('')}`, ...rows];
}

function least(samples) {
  return Math.min(...samples);
}

function most(samples) {
  return Math.max(...samples);
}

function size(bytes) {
  return bytes >= 1024 * 1024 ? `${bytes / 1024 / 1024} MiB` : `${bytes / 1024} KiB`;
}
