import { CommandFailure, exitStatus } from '../failure.ts';

const parts: Record<string, string[]> = {
  f32: ['--numeric', 'f32'],
  bf16: ['--numeric', 'bf16'],
  auto: ['--numeric', 'auto'],
  'int8-experts': ['--expert-dtype', 'int8'],
  'int4-experts': ['--expert-dtype', 'int4'],
  'int8-dense': ['--dense-dtype', 'int8'],
};

/** "bf16+int8-experts" -> the flags of `switchyard up` that make it so. */
export function classFlags(name: string): string[] {
  return name.split('+').flatMap((part) => {
    const flags = parts[part];
    if (!flags)
      throw new CommandFailure(
        `--classes ${name}: ${part} is not known; a class is put together with + from ${Object.keys(parts).join(', ')}`,
        {
          status: exitStatus.usage,
        },
      );
    return flags;
  });
}
