/** A device that is lost in the middle of a run costs the updates since the last checkpoint. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { DeviceLostError } from '../../src/engine/errors.ts';
import { openSafetensors } from '../../src/formats/safetensors.node.ts';
import { configure } from '../../src/train/config.ts';
import { loadTrainingData } from '../../src/train/data.ts';
import { train } from '../../src/train/loop.ts';
import { newDevice, testDevice } from '../support.ts';

const test = suite('lost device');
const folder = mkdtempSync(join(tmpdir(), 'cmap-lost-'));
test.after(() => rmSync(folder, { recursive: true, force: true }));

test('the run ends with the loss of the device, and goes on from its checkpoint on another', async () => {
  const net =
    '{"image_size":28,"num_channels":1,"nf":8,"ch_mult":[1],"num_res_blocks":1,"attn_resolutions":[],"patch_size":4}';
  const config = configure('fashion-mnist-edm', [
    ...['dataset=fashion-mnist-1000', 'count=16', 'batch=2', 'steps=9', 'checkpoint_every=3', 'log_every=2'],
    `net_config=${net}`,
  ]);
  const data = await loadTrainingData(config, 28);
  const out = join(folder, 'run');
  const doomed = await newDevice();
  let error: unknown = null;
  await train(doomed, config, data, { out }, { onStep: (done) => void (done === 5 && doomed.close()) }).catch(
    (e) => {
      error = e;
    },
  );
  assert.ok(error instanceof DeviceLostError, String(error));
  const file = openSafetensors(join(out, 'checkpoint.safetensors'));
  assert.is(file.metadata.step, '3');
  file.close();
  const device = await testDevice();
  assert.is((await train(device, config, data, { out, resume: true })).steps, 9);
  await train(device, config, data, { out: join(folder, 'whole') });
  const bytes = (name: string) => readFileSync(join(folder, name, 'weights.safetensors'));
  assert.ok(bytes('run').equals(bytes('whole')), 'bit for bit');
});

test.run();
