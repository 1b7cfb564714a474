from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION: dict[str, str] = {}
exec((ROOT / 'mmhyperface' / 'version.py').read_text(), VERSION)

setup(
    name='mmhyperface',
    version=VERSION['__version__'],
    description='Hyperspherical face recognition for OpenMMLab',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmhyperface', 'mmhyperface.*']),
    # .mim is where `mim` and `_base_ = 'mmhyperface::...'` look for configs
    # and tools; in the repository it is made of links to the top level.
    package_data={
        'mmhyperface': [
            'py.typed',
            'evaluation/report/templates/*.jinja',
            '.mim/model-index.yml',
            '.mim/configs/**/*.py',
            '.mim/configs/**/*.yml',
            '.mim/tools/**/*.py',
            '.mim/tools/**/*.sh',
        ]
    },
    # They belong to the repository, where their figures are made.
    exclude_package_data={'mmhyperface': ['.mim/tools/benchmarks/*']},
    install_requires=[
        'torch>=2.1',
        'torchvision>=0.16',
        'mmengine>=0.10.3',
        'mmcv-lite>=2.0.1',
        'mmpretrain>=1.2.0',
        'numpy',
        'opencv-python',
        'matplotlib',
        'rich',
        'jinja2',
        # mmengine 0.10 and mim import pkg_resources, which setuptools 82 drops.
        'setuptools<82',
    ],
    extras_require={
        'test': [
            'pytest',
            'pytest-xdist',
            'hypothesis',
            'simplejpeg',
            'pillow-heif',
            'pyarrow',
            'scikit-learn',
            'onnx',
            'onnxruntime',
            'onnxslim',
            'faiss-cpu',
            'gradio>=6',
            'insightface',
            'selenium',
            'ruff',
            'mypy',
            'codespell',
            'import-linter',
            'pre-commit',
        ],
        'tensorboard': ['tensorboard'],
        'jpeg': ['simplejpeg'],
        'parquet': ['pyarrow'],
        'export': ['onnx', 'onnxruntime', 'onnxslim'],
        'faiss': ['faiss-cpu'],
        'demo': ['gradio>=6'],
        'mim': ['openmim'],
    },
    classifiers=[
        'License :: OSI Approved :: Apache Software License',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
