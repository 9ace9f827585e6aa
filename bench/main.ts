/** `npm run bench`: kernels, or with `--memory` the memory of whole networks. */
if (process.argv.includes('--memory')) await import('./memory.ts');
else await import('./kernels.ts');
export {};
