export * from './errors.ts';
export * from './frame.ts';
export * from './limits.ts';
export * from './link.ts';
export * from './plan.ts';
export * from './replica-choice.ts';
export * from './topology.ts';
export * from './trace.ts';
