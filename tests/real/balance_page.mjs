// The browser part of tests/real/balance_page. Not executable, so that tests/run does not run it as a test.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { look as looked } from './page_checks.mjs'

const task = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const require = createRequire(task.modules)
const { chromium } = require('playwright-core')
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8')

const SIZES = { phone: { width: 375, height: 740 }, desk: { width: 1280, height: 900 } }
const problems = []
const [program, ...start] = task.command
const balance = (...more) => execFileSync(program, [...start.slice(0, 1), ...more, ...start.slice(1)], { encoding: 'utf8', env: { ...process.env, USER: 'dave', SUDO_USER: '' } })

// Chromium's sandbox does not work for root.
const browser = await chromium.launch({ executablePath: task.chromium, args: process.getuid() === 0 ? ['--no-sandbox'] : [] })

// Opens the page and logs in. A script error, a message on the console and a breach of the Content-Security-Policy fail the test.
async function open(size = 'desk') {
  const context = await browser.newContext({ viewport: SIZES[size] })
  context.setDefaultTimeout(10_000)
  const page = await context.newPage()
  page.on('pageerror', (error) => problems.push(error.stack))
  page.on('console', (message) => {
    // The responses with 401 and 4xx of refused changes, and the connection that lost() ends, are expected.
    if (['error', 'warning'].includes(message.type()) && !/status of (401|409|422)|ERR_CONNECTION_RESET/.test(message.text())) problems.push(message.text())
  })
  await page.addInitScript(() => {
    window.breaches = []
    document.addEventListener('securitypolicyviolation', (event) => window.breaches.push(`${event.violatedDirective} ${event.blockedURI}`))
  })
  await page.goto(task.page)
  await page.fill('#token', task.token)
  await page.keyboard.press('Enter')
  await page.waitForFunction(() => document.getElementById('live').textContent === '● live')
  await page.locator('#history strong').first().waitFor()
  return page
}

const look = (page, name) => looked(page, name, { pictures: task.pictures, axe })

const row = (page, target, provider) => page.locator(`section[aria-labelledby="target-${target}"] > table tbody tr`).filter({ has: page.locator(`th:text-is("${provider}")`) })
const shares = async (page, target) => Object.fromEntries(await page.locator(`section[aria-labelledby="target-${target}"] > table tbody tr`).evaluateAll((rows) =>
  rows.map((row) => [row.querySelector('th').textContent, row.querySelector('td strong').textContent])))

// The per cent of the page equals the per cent of the command.
async function equalsCommand(page, target) {
  const printed = Object.entries(JSON.parse(balance('-t', target, '--json'))[target])
  assert.deepEqual(await shares(page, target), Object.fromEntries(printed.map(([name, { pct }]) => [name, `${pct.toFixed(1)} %`])))
}

// The bill of the page equals the bill of the command.
async function costEqualsCommand(page) {
  const cells = await page.locator('#bills tbody tr').filter({ has: page.locator('th:text-is("fastly")') }).locator('td').allInnerTexts()
  const printed = balance('cost').split('\n').find((line) => line.trim().startsWith('fastly'))
  assert.ok(cells.length > 0)
  for (const cell of cells.map((text) => text.trim()).filter(Boolean)) assert.ok(printed.includes(cell), `${cell} is not in ${printed}`)
}

// Observed shares, the preview, the change and the result, without a mouse.
async function keyboard() {
  const page = await open()
  await page.waitForFunction(() => /\d %/.test(document.querySelector('td.observed').textContent), null, { timeout: 15_000 })
  assert.match(await row(page, 'images', 'akamai').locator('td.observed').innerText(), /^[45]\d\.\d %$/)
  await look(page, 'start')
  await equalsCommand(page, 'images')
  await costEqualsCommand(page)
  const until = async (wanted) => {
    for (let step = 0; step < 60; step += 1) {
      await page.keyboard.press('Tab')
      const is = await page.evaluate(() => document.activeElement.getAttribute('aria-label') ?? document.activeElement.id + document.activeElement.textContent.trim())
      if (is.startsWith(wanted)) return
    }
    assert.fail(`${wanted} is not reachable by Tab`)
  }
  await until('New share of fastly in images')
  for (let step = 0; step < 7; step += 1) await page.keyboard.press('ArrowRight')
  await page.locator('.preview .fine').waitFor()
  assert.match((await page.locator('.preview tbody tr').nth(2).innerText()).replace(/\s+/g, ' '), /fastly obey 15 → 400 33\.3 % → 40\.0 % \+6\.7 points/)
  // The change is allowed, so the warning does not look like a refusal.
  assert.match(await page.locator('.preview .warned').innerText(), /crosses a commit or a tier is unknown, because akamai, edgecast have no samples/)
  assert.equal(await page.locator('.preview .refused').count(), 0)
  await look(page, 'preview')
  await until('why-images')
  await page.keyboard.type('keyboard only')
  await until('Make this change')
  await page.keyboard.press('Enter')
  await page.locator('#confirm[open]').waitFor()
  assert.equal(await page.evaluate(() => document.activeElement.id), 'confirm-no', 'the safe button has the focus')
  await look(page, 'confirm')
  // Escape changes nothing.
  await page.keyboard.press('Escape')
  assert.match(balance('-t', 'images', '--show'), /fastly .*33\.3 %/)
  await page.keyboard.press('Enter')
  await until('confirm-yes')
  await page.keyboard.press('Enter')
  await page.locator('#confirm-head').filter({ hasText: 'Done' }).waitFor()
  assert.equal(await page.locator('#confirm-text tbody tr').count(), 2)
  await look(page, 'done')
  await until('confirm-no')
  await page.keyboard.press('Enter')
  await page.locator('#confirm').waitFor({ state: 'hidden' })
  await row(page, 'images', 'fastly').locator('td strong').filter({ hasText: '40.0 %' }).waitFor()
  await equalsCommand(page, 'images')
  const first = (await page.locator('#history li').first().innerText()).replace(/\s+/g, ' ')
  assert.match(first, /images: fastly 40 % done .* by token .*Why: keyboard only.*fastly 33\.3 % → 40\.0 %/)
  await page.context().close()
}

// A refused change needs a reason.
async function forced() {
  const page = await open()
  await row(page, 'images', 'akamai').locator('select').first().selectOption('no')
  await page.locator('.preview:visible .refused').waitFor()
  const start = page.locator('.preview:visible button.main')
  assert.ok((await page.locator('.preview:visible .refused').innerText()).includes('max_step allows 25'))
  assert.ok(await start.isDisabled())
  await look(page, 'refused')
  await page.getByLabel('Reason to make the change although it is refused').locator('visible=true').fill('akamai is down')
  await page.getByLabel('static', { exact: true }).locator('visible=true').check()
  await page.locator('.preview:visible h3').nth(1).waitFor()
  await page.waitForFunction(() => [...document.querySelectorAll('.preview:not([hidden]) button.main')].every((button) => !button.disabled))
  await start.click()
  await look(page, 'forced')
  await page.locator('#confirm-yes').click()
  await page.locator('#confirm-head').filter({ hasText: 'Done' }).waitFor()
  assert.equal(await page.locator('#confirm-text tbody tr').count(), 3)
  await page.locator('#confirm-no').click()
  await row(page, 'static', 'akamai').locator('td strong').filter({ hasText: /^0\.0 %$/ }).waitFor()
  await equalsCommand(page, 'static')
  await page.context().close()
}

// Another person changes the weights between the preview and the confirmation.
async function stale() {
  const page = await open('phone')
  await row(page, 'static', 'fastly').locator('input[type=number]').fill('60')
  await page.locator('.preview:visible .fine').waitFor()
  await page.locator('.preview:visible button.main').click()
  balance('-t', 'static', '-p', 'fastly', '--pct', '45', '--yes')
  await page.locator('#confirm-yes').click()
  await page.locator('#confirm-head').filter({ hasText: 'Not done' }).waitFor()
  assert.ok((await page.locator('#confirm-text').innerText()).includes('DNS is no longer as it was shown'))
  await look(page, 'phone-stale')
  await page.locator('#confirm-no').click()
  await page.locator('.preview:visible').filter({ hasText: '45.0 % → 60.0 %' }).waitFor()
  await look(page, 'phone')
  await page.locator('.preview:visible button').filter({ hasText: 'Discard' }).click()
  assert.equal(await page.locator('.preview:visible').count(), 0)
  await page.context().close()
}

// The connection ends before the response to the change.
async function lost() {
  const page = await open()
  await row(page, 'static', 'fastly').locator('input[type=number]').fill('60')
  await page.locator('.preview:visible .fine').waitFor()
  await page.locator('.preview:visible button.main').click()
  await page.route('**/api/change', (route) => route.abort('connectionreset'))
  await page.locator('#confirm-yes').click()
  await page.locator('#confirm-head').filter({ hasText: 'The result is not known' }).waitFor()
  assert.ok((await page.locator('#confirm-text').innerText()).includes('The change may have been made'))
  await page.locator('#confirm-no').click()
  await page.context().close()
}

// The steps that were made arrive: the shim measures them, or the page says that nothing is known yet.
async function arrival() {
  const page = await open()
  await page.locator('#arrival').filter({ hasText: /t50|no change/ }).waitFor()
  console.log(`arrival: ${(await page.locator('#arrival').innerText()).replace(/\s+/g, ' ')}`)
  await look(page, 'end')
  await page.context().close()
}

let failed = false
try {
  for (const [name, part] of Object.entries({ keyboard, forced, stale, lost, arrival })) {
    const started = Date.now()
    await part().catch((error) => {
      failed = true
      console.log(`${name}: ${error.stack}`)
    })
    console.log(`${name}: ${Date.now() - started} ms`)
  }
  assert.deepEqual(problems, [])
} finally {
  await browser.close()
}
process.exit(failed ? 1 : 0)
