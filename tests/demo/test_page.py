"""The page in a real browser, started by its command."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from demo_faces import THRESHOLD, checkpoint, picture

from mmhyperface.inference import FaceInferencer

pytest.importorskip('selenium')

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

APP = Path(__file__).parent.parent.parent / 'tools' / 'demo' / 'app.py'
BROWSER = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))),
    None,
)
DRIVER = shutil.which('chromedriver')
PATIENCE, TIMES = 120, 6
PHONE = dict(width=390, height=844, deviceScaleFactor=2, mobile=True)
# What is wider than the window, but for what scrolls in itself.
BEYOND = """
const wide = document.documentElement.clientWidth + 1;
const scrolls = element => {
  for (; element; element = element.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(element).overflowX)
        && element.getBoundingClientRect().right <= wide) return true;
};
return [...document.body.querySelectorAll('*')]
  .filter(x => x.checkVisibility() && x.getBoundingClientRect().right > wide
          && !scrolls(x))
  .map(x => x.outerHTML.slice(0, 150));
"""

pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None or find_spec('gradio') is None,
    reason='no gradio, chromium or chromedriver',
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('demo')


@pytest.fixture(scope='module')
def model(folder):
    return checkpoint(folder / 'model.pth')


@pytest.fixture(scope='module')
def server(folder, model):
    """Its address; it ends as a server does that is asked to, and cleans up."""
    temporary = folder / 'temporary'
    temporary.mkdir()
    log = folder / 'log'
    environment = dict(os.environ, TMPDIR=str(temporary), HOME=str(folder))
    with open(log, 'wb') as file:
        process = subprocess.Popen(
            [sys.executable, APP, model, '--gallery', folder / 'gallery.npz'],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    try:
        end = time.monotonic() + PATIENCE
        while not (match := re.search(r'page is at (\S+)', log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield match[1]
        # As `timeout` and others do, which end a group as well.
        for _ in range(3):
            process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert 'Traceback' not in log.read_text()
        # Nothing is left of the pictures.
        assert not list(temporary.iterdir())
    finally:
        process.kill()
        process.wait()


class Visitor:
    """A browser with the page."""

    def __init__(self, address):
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        for argument in (
            '--headless=new',
            '--no-sandbox',
            '--disable-dev-shm-usage',
            '--hide-scrollbars',
            '--window-size=1280,900',
        ):
            options.add_argument(argument)
        service = webdriver.ChromeService(DRIVER)
        self.driver = webdriver.Chrome(options=options, service=service)
        self.address = address

    def open(self, phone=False):
        if phone:
            self.driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', PHONE)
        else:
            self.driver.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
        self.driver.get(self.address)
        self.wait('#comparison .hint')

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, selector, text='', get=lambda element: element):
        """What to get of the first element that has a text, once there is one."""

        def find(_):
            return next((get(x) for x in self.all(selector) if text in x.text), None)

        # An answer may come anew while it is looked at.
        ignored = [StaleElementReferenceException]
        waiting = WebDriverWait(self.driver, PATIENCE, 0.1, ignored)
        return waiting.until(find, f'{selector} {text}')

    def read(self, selector, text=''):
        return self.wait(selector, text, lambda element: element.text)

    def value(self, selector):
        return float(self.wait(selector, get=lambda x: x.get_attribute('value')))

    def upload(self, name, *paths):
        self.wait(f'#{name} input[type=file]').send_keys('\n'.join(paths))

    def tab(self, name):
        self.wait('button[role=tab]', name).click()

    def show(self, name, path):
        """Give a picture to a place for one, and see it there."""
        self.until(
            lambda: self.upload(name, path), lambda: bool(self.all(f'#{name} img'))
        )

    def choose(self, name, text):
        def act():
            self.wait(f'#{name} input').click()
            self.wait('ul[role=listbox] li', text).click()

        chosen = f'#{name} input'
        self.until(act, lambda: text in self.all(chosen)[0].get_attribute('value'))

    def until(self, act, done):
        """Do it again while nothing comes of it: a page that has just been drawn does
        not listen yet."""
        for _ in range(TIMES):
            act()
            waiting = WebDriverWait(self.driver, PATIENCE / TIMES, 0.1)
            with suppress(TimeoutException):
                return waiting.until(lambda _: done())
        raise AssertionError('nothing came of it')

    def fits(self):
        """No element goes beyond the window's width."""
        width, scrolled = self.driver.execute_script(
            'const root = document.documentElement;'
            'return [root.clientWidth, root.scrollWidth]'
        )
        assert scrolled <= width
        assert self.driver.execute_script(BEYOND) == []
        return width


@pytest.fixture(scope='module')
def visitor(server):
    browser = Visitor(server)
    yield browser
    browser.driver.quit()


@pytest.fixture
def page(visitor):
    visitor.open()
    return visitor


def test_compare(page, model, folder):
    paths = [picture(folder / f'{i} 0.png', i, 0) for i in (0, 1)]
    for name, path in zip(('first', 'second'), paths, strict=True):
        page.show(name, path)
    expected = FaceInferencer(model, device='cpu').verify(*paths)
    score = page.value('#comparison .number')
    assert score == pytest.approx(expected.score, abs=1e-6)
    assert page.read('#comparison .number') == f'{score:.3f}'.replace('-', '\u2212')
    assert expected.threshold == THRESHOLD
    kind = 'Same person' if expected.same else 'Different people'
    assert kind in page.read('#comparison .answer')
    assert len(page.all('#comparison img.crop')) == 2
    # The other answer, by a threshold of one's own.
    page.choose('compare-choice', 'your own')
    own = round(expected.score + (0.002 if expected.same else -0.002), 3)
    slider = page.wait('#compare-own input[type=number]')
    page.driver.execute_script('arguments[0].select()', slider)
    slider.send_keys(f'{own}\n')
    page.wait('#comparison .why', f'Your threshold is {own:.3f}')
    other = 'Different people' if expected.same else 'Same person'
    assert other in page.read('#comparison .answer')
    assert page.fits() == 1280
    # It needs no other machine.
    loaded = page.driver.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert len(loaded) > 10
    assert [x for x in loaded if not x.startswith((page.address, 'data:'))] == []


def test_a_drawn_example(page):
    page.wait('#comparison .hint')
    page.wait('tbody tr').click()
    page.wait('#comparison .number')


def test_enrol_and_identify(page, folder):
    page.tab('Identify')
    # Gradio's templates stand in the page as they are.
    names = ['Person 0', '${7 * 7} {{Person}} 1']
    for person, name in enumerate(names):
        page.wait('#person textarea, #person input').send_keys(name)
        paths = [picture(folder / f'{person} {k}.png', person, k) for k in (0, 1)]
        page.upload('files', *paths)
        page.wait('#files tr:nth-of-type(2)')
        page.wait('#enrol').click()
        page.wait('#told', f'{name} is enrolled with 2 pictures')
        page.wait('#people', name)
    # One of those enrolled is found whatever the network is worth.
    page.upload('unknown', str(folder / '1 0.png'))
    assert page.read('#identification .name') == names[1]
    assert page.value('#identification data') == pytest.approx(1, abs=1e-5)
    # The next visitor sees the same people.
    page.open()
    page.tab('Identify')
    page.wait('#people', names[1])
    page.choose('whom', 'Person 0')
    page.wait('#remove').click()
    page.wait('#told', 'Person 0 is removed')
    page.wait('#people li:only-child', names[1])


def test_a_bad_file(page, folder):
    good = picture(folder / 'good.png', 0, 0)
    bad = folder / 'bad.jpg'
    bad.write_bytes(b'This is no picture.')
    page.show('first', good)
    page.upload('second', str(bad))
    message = page.read('#comparison .message')
    assert 'bad.jpg: is no picture of a known type' in message
    assert str(folder) not in message
    assert 'Traceback' not in page.driver.page_source


def test_phone(visitor, folder):
    visitor.open(phone=True)
    for name in ('first', 'second'):
        visitor.show(name, picture(folder / 'x.png', 0, 0))
    visitor.wait('#comparison .number')
    assert visitor.fits() == PHONE['width']
    for tab in ('Identify', 'Model'):
        visitor.tab(tab)
        visitor.wait(dict(Identify='#enrol', Model='#model dl')[tab])
        assert visitor.fits() == PHONE['width']
    assert json.dumps(THRESHOLD) in visitor.read('#model')
