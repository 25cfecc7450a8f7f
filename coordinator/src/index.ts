/**
 * The coordinator as a library.
 *
 *   const coordinator = await startCoordinator({ model: 'models/shunter-16m', nodes: 2, workersPerNode: 2, listen: '127.0.0.1:0', control: 'unix:/run/x.sock' });
 *   console.log(coordinator.url);
 *   await coordinator.close();
 */
export type { GivenConfig } from './config.ts';
export { type RunningCoordinator, startCoordinator } from './coordinator.ts';
