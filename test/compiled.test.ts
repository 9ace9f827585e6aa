/**
 * Every kernel that this process has used, all variants that the operations' tests force among them, compiles on Dawn's null
 * backend too, which validates with WebGPU's default limits. The last file of each process (run.ts).
 */
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { Device } from '../src/engine/device.ts';
import { knownKernels } from '../src/engine/kernel.ts';

test('every kernel made in this process compiles', async () => {
  const device = await Device.open({ adapter: 'null' });
  assert.is(device.capabilities.cpu, false);
  for (const k of knownKernels()) {
    // The null adapter has 16 KiB of workgroup memory, the device of this run may have more and use it.
    await device.pipelines.warm([k]).catch((error: Error) => {
      if (!/AHEAD=true.*total use of workgroup storage/i.test(error.message)) throw error;
    });
  }
  await device.sync();
});

test.run();
