"""One module for each kind of file; none knows of data sets, models or pipelines.

- :mod:`.text_lists`: lines of UTF-8 text, for lists of a few fields;
- :mod:`.tables`: CSV, TSV and Parquet with a header;
- :mod:`.numeric_lists`: millions of lines of names and numbers, by numpy;
- :mod:`.cfp_splits`, :mod:`.ijb_meta`, :mod:`.megaface_lists`: what these test sets
  come with, by the former three;
- :mod:`.recordio`, :mod:`.record_index`: records of MXNet, and where they start;
- :mod:`.safe_pickle`: pickles of plain data, which are not run;
- :mod:`.image_files`: which files are images.
"""
