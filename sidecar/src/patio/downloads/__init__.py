"""Downloads: files of Hugging Face, S3, OBS, volumes and folders, fetched by a child process that can be killed.

`plan`, `names` and `places` decide, `worker` with its `backends` fetches, `child` watches one worker, `downloads` has
them all. Nothing here knows adapters or engines; heavy libraries are imported by the worker only.
"""
